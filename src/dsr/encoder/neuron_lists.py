"""Neuron files: which hidden MLP units of an encoder are register neurons.

A file is JSON: ``encoder`` (model id or folder), ``layers`` (layer -> hidden indices), ``ranked`` ([layer, neuron,
score] of a discovery, best first; empty for the release's lists) and ``source`` (where the list comes from).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator

from dsr.base.errors import UserError, first_problem
from dsr.base.files import write_json
from dsr.config.base import Section


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

    @property
    def count(self) -> int:
        """Number of neurons."""
        return sum(map(len, self.layers.values()))


def by_layer(neurons: Sequence[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    """Group (layer, neuron) pairs: layers ascending, neurons in the given order, repetitions dropped."""
    layers: dict[int, tuple[int, ...]] = {}
    for layer, neuron in sorted(dict.fromkeys(neurons), key=lambda pair: pair[0]):
        layers[layer] = (*layers.get(layer, ()), neuron)
    return layers


def merge(first: Mapping[int, Sequence[int]], second: Mapping[int, Sequence[int]]) -> dict[int, tuple[int, ...]]:
    """Return the union of two lists, as recursive TTR uses it."""
    return by_layer([(layer, neuron) for part in (first, second) for layer in part for neuron in part[layer]])


def check_ranges(layers: Mapping[int, Sequence[int]], widths: Sequence[int]) -> None:
    """Check that every neuron exists in an encoder whose MLPs have these hidden widths.

    Raises:
        UserError: naming the first layer or neuron that does not exist.
    """
    for layer, indices in layers.items():
        if not 0 <= layer < len(widths):
            raise UserError(
                f"register neurons: layer {layer} does not exist, the encoder has layers 0-{len(widths) - 1}"
            )
        outside = [index for index in indices if not 0 <= index < widths[layer]]
        if outside:
            raise UserError(
                f"register neurons: layer {layer} has hidden units 0-{widths[layer] - 1}, not {outside[0]}; "
                "use the list that was made for this encoder"
            )


def read(path: Path) -> NeuronList:
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


def write(path: Path, neurons: NeuronList) -> None:
    """Write a neuron file, atomically."""
    write_json(path, neurons.model_dump(mode="json", exclude_none=True))
