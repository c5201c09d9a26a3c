"""Test-time registers (TTR): move what register neurons write from image tokens to appended register tokens.

A register neuron is a hidden MLP unit that makes the encoder's outlier tokens. For every listed layer its activation
is set to the layer's extreme value on the registers and to zero on image tokens. "Recursive" TTR is the same single
pass with a longer list of neurons.
"""

import copy
from collections.abc import Mapping, Sequence

import torch

from dsr.base.errors import UserError
from dsr.config.encoders import TestTimeRegisters
from dsr.encoder.blocks import Mlp
from dsr.encoder.vit import Encoder


class InterventionMlp(Mlp):
    """An MLP that moves the activations of register neurons to the register tokens.

    Args:
        mlp: the MLP whose weights are shared.
        neurons: hidden indices; order and repetition have no effect.
        options: how to intervene; the last ``options.registers`` tokens are the registers.
    """

    neurons: torch.Tensor
    is_listed: torch.Tensor

    def __init__(self, mlp: Mlp, neurons: Sequence[int], options: TestTimeRegisters) -> None:
        super().__init__(mlp.fc1, mlp.activation, mlp.fc2)
        self.options = options
        self.register_buffer("neurons", torch.tensor(sorted(set(neurons))), persistent=False)
        # Of every hidden unit. Comparing is one pass over the activations; to write to the neurons' places in them
        # takes GPUs a sort and several copies when every run has to give the same bits.
        is_listed = torch.zeros(mlp.fc1.out_features, dtype=torch.bool).index_fill(0, self.neurons, True)
        self.register_buffer("is_listed", is_listed, persistent=False)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Activations (B, T, M) after the intervention; images of a batch do not see each other."""
        activations = super().hidden(x)
        token = torch.arange(activations.shape[1], device=activations.device)[:, None]
        is_register = token >= activations.shape[1] - self.options.registers
        is_changed = self.is_listed & (token >= (1 if self.options.first_token == "kept" else 0))
        return torch.where(is_changed, self._extreme(activations).masked_fill(~is_register, 0.0), activations)

    def _extreme(self, activations: torch.Tensor) -> torch.Tensor:
        """Signed value of largest magnitude over all tokens, registers included; the negative one wins a tie.

        It is taken over the listed neurons together, (B, 1, 1), or for each of them, (B, 1, M).
        """
        chosen = activations.index_select(2, self.neurons)
        dims = (1, 2) if self.options.maximum == "shared" else (1,)
        high, low = chosen.amax(dims, keepdim=True), chosen.amin(dims, keepdim=True)
        extreme = torch.where(high.abs() > low.abs(), high, low)
        if self.options.maximum == "shared":
            return extreme
        return activations.new_zeros(len(activations), 1, activations.shape[2]).index_copy(2, self.neurons, extreme)


def with_registers(encoder: Encoder, neurons: Mapping[int, Sequence[int]], options: TestTimeRegisters) -> Encoder:
    """Return an encoder with test-time registers that shares the weights of a plain one.

    Args:
        encoder: the encoder without registers.
        neurons: hidden indices of the register neurons of each layer (0-based).
        options: how to intervene.

    Raises:
        UserError: if a layer or an index does not exist in the encoder.
        ValueError: if the encoder has registers already.
    """
    if encoder.registers:
        raise ValueError("the encoder has test-time registers already; start from the plain one")
    changed = copy.deepcopy(encoder, {id(tensor): tensor for tensor in (*encoder.parameters(), *encoder.buffers())})
    changed.registers = options.registers
    layers = len(changed.blocks)
    for layer, indices in neurons.items():
        if not 0 <= layer < layers:
            raise UserError(f"register neurons: layer {layer} does not exist, the encoder has layers 0-{layers - 1}")
        block = changed.blocks[layer]
        units = block.mlp.fc1.out_features
        if outside := [index for index in indices if not 0 <= index < units]:
            raise UserError(
                f"register neurons: layer {layer} has hidden units 0-{units - 1}, not {outside[0]}; "
                "use the list that was made for this encoder"
            )
        block.mlp = InterventionMlp(block.mlp, indices, options).to(encoder.pixel_mean.device).eval()
    return changed
