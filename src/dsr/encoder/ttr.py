"""Test-time registers (TTR): move what register neurons write from image tokens to appended register tokens.

A register neuron is a hidden MLP unit that makes the encoder's outlier tokens. For every listed layer its activation
is set to the layer's extreme value on the registers and to zero on image tokens. "Recursive" TTR is the same single
pass with a longer list of neurons.

An image's outliers are the image tokens whose norm after the detection layer exceeds a threshold. A neuron's score is
its mean absolute activation on those tokens, averaged over the images that have outliers.

A neuron file is the JSON of a :class:`NeuronList`: a discovery's, or one of the release's lists (`neurons/`).
"""

import copy
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError, field_validator

from dsr.base.errors import UserError, first_problem
from dsr.base.randomness import permutation
from dsr.config.base import Section
from dsr.config.encoders import Discovery, TestTimeRegisters
from dsr.config.specs import DiscoverSpec
from dsr.data.images import Images
from dsr.data.loading import pixel_batches
from dsr.encoder.blocks import Mlp, Trace
from dsr.encoder.vit import Encoder, VitEncoder

log = logging.getLogger(__name__)


class InterventionMlp(Mlp):
    """An MLP that moves the activations of register neurons to the register tokens.

    The last ``options.registers`` tokens are the registers. Order and repetition of ``neurons``, hidden indices, have
    no effect.
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

    ``neurons`` are the hidden indices of the register neurons of each layer (0-based).

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


class NeuronList(Section):
    """Register neurons of one encoder."""

    encoder: str
    """Model id or folder of the encoder that the indices belong to."""
    layers: dict[int, tuple[int, ...]]
    """Layer (0-based) -> hidden indices of its MLP, without repetition."""
    ranked: tuple[tuple[int, int, float], ...] = ()
    """(layer, neuron, score) of the discovery, best first; empty where scores are not known."""
    source: str
    """Where the list comes from."""
    spec: dict[str, Any] | None = None
    """Specification of the discovery; none of the release's lists."""

    @field_validator("layers")
    @classmethod
    def _plausible(cls, layers: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
        if not layers or not all(layers.values()):
            raise ValueError("expected at least one neuron, and no layer without neurons")
        repeated = [layer for layer, indices in layers.items() if len(set(indices)) < len(indices)]
        if repeated:
            raise ValueError(f"layers {repeated} name a neuron twice")
        return layers


def by_layer(neurons: Sequence[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    """Group (layer, neuron) pairs: layers ascending, neurons in the given order, repetitions dropped."""
    layers: dict[int, tuple[int, ...]] = {}
    for layer, neuron in sorted(dict.fromkeys(neurons), key=lambda pair: pair[0]):
        layers[layer] = (*layers.get(layer, ()), neuron)
    return layers


def merge(first: Mapping[int, Sequence[int]], second: Mapping[int, Sequence[int]]) -> dict[int, tuple[int, ...]]:
    """Return the union of two lists, as recursive TTR uses it."""
    return by_layer([(layer, neuron) for part in (first, second) for layer in part for neuron in part[layer]])


class NeuronScores:
    """Scores of all neurons, summed over images; ``options`` give threshold and detection layer."""

    def __init__(self, options: Discovery) -> None:
        self.options = options
        self.images = 0
        """Images with at least one outlier so far."""
        self.largest_norm = 0.0
        """Largest token norm seen so far."""
        self._sum: torch.Tensor | None = None

    def add(self, trace: Trace, registers: int = 0, *, prefix: int = 0) -> None:
        """Add the images of one trace; its first ``prefix`` and last ``registers`` tokens take no part."""
        image = slice(prefix, trace.hidden_states[0].shape[1] - registers)
        streams, detected = trace.hidden_states[1:], self.options.layer
        if not -len(streams) <= detected < len(streams):
            raise UserError(f"discovery.layer: {detected} does not exist, the encoder has {len(streams)} layers")
        norms = streams[detected][:, image].norm(dim=-1)
        outliers = norms > self.options.norm_threshold
        contributing = outliers.any(dim=1)
        self.largest_norm = max(self.largest_norm, float(norms.max()))
        if not contributing.any():
            return
        outliers = outliers[contributing]
        weights = outliers.double() / outliers.sum(dim=1, keepdim=True)
        activations = (layer[contributing][:, image].abs().double() for layer in trace.activations)
        scores = torch.stack([torch.einsum("bt,btm->bm", weights, layer).sum(dim=0) for layer in activations])
        self.images += len(outliers)
        self._sum = scores if self._sum is None else self._sum + scores

    def mean(self) -> torch.Tensor:
        """Scores (layers, neurons), float64.

        Raises:
            UserError: if no image had an outlier.
        """
        if self._sum is None:
            raise UserError(
                f"no image has a token whose norm exceeds discovery.norm_threshold {self.options.norm_threshold}: "
                f"the largest norm seen is {self.largest_norm:.4g}; choose a lower threshold"
            )
        return self._sum / self.images


def rank(scores: torch.Tensor, top_k: int, *, exclude: Iterable[tuple[int, int]] = ()) -> list[tuple[int, int, float]]:
    """Return the ``top_k`` best (layer, neuron, score), or all where fewer are left, best first.

    ``scores`` are (layers, neurons), and ``exclude`` the (layer, neuron) pairs to leave out.
    """
    left_out = set(exclude)
    order = torch.argsort(scores.flatten(), descending=True, stable=True)
    found = (divmod(flat, scores.shape[1]) for flat in order.tolist())
    best = itertools.islice((pair for pair in found if pair not in left_out), top_k)
    return [(layer, neuron, float(scores[layer, neuron])) for layer, neuron in best]


@torch.no_grad()
def find_register_neurons(
    spec: DiscoverSpec, encoder: VitEncoder, images: Images, *, first: NeuronList | None = None
) -> NeuronList:
    """Find register neurons on a random choice of images.

    Args:
        encoder: on the device to compute on. In a recursive discovery, the one in which ``first`` intervenes on
            appended registers: what is found then makes outliers among image tokens although the first list is silent.
        first: list that the result starts with; its neurons are not found again.

    Raises:
        UserError: if no image has an outlier, or the detection layer does not exist.
    """
    options = spec.discovery
    known = first.layers if first else {}
    chosen = permutation(0, "discovery", 0, len(images))[: options.images]
    scores = NeuronScores(options)
    items = [(index, False) for index in chosen.tolist()]
    for pixels in pixel_batches(images, items, batch=8, device=encoder.pixel_mean.device):
        scores.add(encoder.trace(encoder.preprocess(pixels)), encoder.registers, prefix=encoder.prefix)
    ranked = rank(scores.mean(), options.top_k, exclude=[(layer, unit) for layer in known for unit in known[layer]])
    log.info("%d of %d images have outliers; largest norm %.4g", scores.images, options.images, scores.largest_norm)
    return NeuronList(
        encoder=spec.encoding.encoder.hub,
        layers=merge(known, by_layer([(layer, neuron) for layer, neuron, _ in ranked])),
        ranked=(*(first.ranked if first else ()), *ranked),
        source=f"discovery on {scores.images} images with outliers among {options.images}"
        + (f", on top of {sum(map(len, known.values()))} neurons: {first.source}" if first else ""),
    )


def read_neurons(path: Path) -> NeuronList:
    """Read a neuron file.

    Raises:
        UserError: if it is missing or is not one.
    """
    try:
        return NeuronList.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; find register neurons with `python -m dsr.commands.discover`") from None
    except ValidationError as error:
        raise UserError(f"{path}: not a neuron file ({first_problem(error)})") from None
