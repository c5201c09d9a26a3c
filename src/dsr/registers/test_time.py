"""Test-time registers (TTR): move what register neurons write from image tokens to appended register tokens.

A register neuron is a hidden MLP unit that makes the encoder's outlier tokens. For every listed layer its activation
is set to the layer's extreme value on the registers and to zero on image tokens. "Recursive" TTR is the same single
pass with a longer list of neurons.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dsr.base.errors import UserError
from dsr.registers.layout import Layout, change_arguments, change_tokens

Model = TypeVar("Model", bound=nn.Module)


def listed(neurons: Sequence[int], units: int) -> Tensor:
    """Which of ``units`` hidden units are in the list, (M,) bool.

    Comparing with it is one pass over the activations; to write to the neurons' places in them takes GPUs a sort and
    several copies when every run has to give the same bits.
    """
    return torch.zeros(units, dtype=torch.bool).index_fill(0, torch.tensor(sorted(set(neurons))), True)


def intervene(
    activations: Tensor, neurons: Tensor, is_listed: Tensor, *, registers: int, kept: int, shared: bool
) -> Tensor:
    """Move the activations (B, T, M) of register neurons to the last ``registers`` tokens; the first ``kept`` stay.

    The value is the signed one of largest magnitude over all tokens, registers included; the negative one wins a tie.
    It is taken over all ``neurons`` (indices) if ``shared``, or for each. Images of a batch do not see each other.
    """
    chosen = activations.index_select(2, neurons)
    dims = (1, 2) if shared else (1,)
    high, low = chosen.amax(dims, keepdim=True), chosen.amin(dims, keepdim=True)
    extreme = torch.where(high.abs() > low.abs(), high, low)
    if not shared:
        extreme = activations.new_zeros(len(activations), 1, activations.shape[2]).index_copy(2, neurons, extreme)
    token = torch.arange(activations.shape[1], device=activations.device)[:, None]
    is_register = token >= activations.shape[1] - registers
    return torch.where(is_listed & (token >= kept), extreme.masked_fill(~is_register, 0.0), activations)


def check_neurons(neurons: Mapping[int, Sequence[int]], units: Sequence[int]) -> None:
    """Refuse layers and hidden indices that do not exist; ``units`` are the hidden units of every layer."""
    for layer, indices in neurons.items():
        if not 0 <= layer < len(units):
            raise UserError(
                f"register neurons: layer {layer} does not exist, the encoder has layers 0-{len(units) - 1}"
            )
        if outside := [index for index in indices if not 0 <= index < units[layer]]:
            raise UserError(
                f"register neurons: layer {layer} has hidden units 0-{units[layer] - 1}, not {outside[0]}; "
                "use the list that was made for this encoder"
            )


def add_test_time_registers(
    model: Model,
    neurons: Mapping[int, Sequence[int]],
    *,
    registers: int = 1,
    kept: int | None = None,
    shared: bool = False,
    layout: Layout | None = None,
) -> Model:
    """Give a ViT test-time registers: ``model`` itself, whose weights, names and shapes of outputs stay what they are.

    Registers travel from block to block beside the image tokens, so that whatever reads between blocks (intermediate
    layers, hidden states) sees the tokens that it saw before. Without neurons nothing is changed.

    Args:
        model: a ViT of timm, transformers or torchvision, or any other with its ``layout``.
        neurons: layer (0-based) -> hidden indices, as `find_register_neurons` returns them.
        registers: tokens to append, zeros at first.
        kept: tokens in front whose activations stay (default: CLS and trained registers).
        shared: one extreme value for all neurons of a layer instead of one for each.

    Raises:
        UserError: if the model is not known or has no such neuron.
    """
    layout = layout or Layout.of(model)
    check_neurons(neurons, [output.in_features for output in layout.outputs])
    if not any(neurons.values()):
        return model
    kept, carried = layout.prefix if kept is None else kept, _Carried(registers)
    for number, block in enumerate(layout.blocks):
        change_arguments(block, carried.append if number else carried.begin)
        block.register_forward_hook(lambda _, __, output: change_tokens(output, carried.take))

    def move(layer: nn.Module, args: tuple[Any, ...]) -> Tensor:
        # Buffers, so that they follow the model to its device.
        chosen, is_listed = layer.register_neurons, layer.is_register_neuron
        return intervene(args[0], chosen, is_listed, registers=registers, kept=kept, shared=shared)  # type: ignore[arg-type]

    for number, indices in neurons.items():
        output = layout.outputs[number]
        is_listed = listed(indices, output.in_features).to(output.weight.device)
        output.register_buffer("is_register_neuron", is_listed, persistent=False)
        output.register_buffer("register_neurons", is_listed.nonzero()[:, 0], persistent=False)
        output.register_forward_pre_hook(move)
    return model


class _Carried:
    """The registers of the pass that is under way, between two blocks."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.tokens = torch.empty(0)

    def begin(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(len(x), self.count, x.shape[2])], dim=1)

    def append(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.tokens], dim=1)

    def take(self, x: Tensor) -> Tensor:
        image, self.tokens = x.tensor_split([-self.count], dim=1)
        return image
