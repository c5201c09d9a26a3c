"""Test-time registers in our own encoders, and the lists of neurons; the method is in `dsr.registers`.

A neuron file is the JSON of a :class:`NeuronList`: a discovery's, or one of the release's lists (`neurons/`).
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError, field_validator

from dsr.base.errors import UserError, first_problem
from dsr.base.randomness import permutation
from dsr.config.base import Section
from dsr.config.encoders import TestTimeRegisters
from dsr.config.specs import DiscoverSpec
from dsr.data.images import Images
from dsr.data.loading import pixel_batches
from dsr.encoder.blocks import Mlp
from dsr.encoder.vit import Encoder, VitEncoder
from dsr.registers.discovery import NeuronScores, by_layer, merge, rank
from dsr.registers.test_time import check_neurons, intervene, listed

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
        is_listed = listed(neurons, mlp.fc1.out_features)
        self.register_buffer("neurons", is_listed.nonzero()[:, 0], persistent=False)
        self.register_buffer("is_listed", is_listed, persistent=False)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Activations (B, T, M) after the intervention; images of a batch do not see each other."""
        return intervene(
            super().hidden(x),
            self.neurons,
            self.is_listed,
            registers=self.options.registers,
            kept=1 if self.options.first_token == "kept" else 0,
            shared=self.options.maximum == "shared",
        )


def with_registers(encoder: Encoder, neurons: Mapping[int, Sequence[int]], options: TestTimeRegisters) -> Encoder:
    """Return an encoder with test-time registers that shares the weights of a plain one.

    ``neurons`` are the hidden indices of the register neurons of each layer (0-based).

    Raises:
        UserError: if a layer or an index does not exist in the encoder.
        ValueError: if the encoder has registers already.
    """
    if encoder.registers:
        raise ValueError("the encoder has test-time registers already; start from the plain one")
    check_neurons(neurons, [block.mlp.fc1.out_features for block in encoder.blocks])
    changed = copy.deepcopy(encoder, {id(tensor): tensor for tensor in (*encoder.parameters(), *encoder.buffers())})
    changed.registers = options.registers
    for layer, indices in neurons.items():
        block = changed.blocks[layer]
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
    scores = NeuronScores(options.norm_threshold, options.layer)
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
