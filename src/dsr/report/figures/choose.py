"""What a figure of maps shows: which layers, time and image, and how they are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsr.analysis.maps import OUTPUT, TokenMaps, default_layers
from dsr.errors import UserError
from dsr.report.specs import FigureSpec


@dataclass(frozen=True)
class Columns:
    """Which layer of each file is in which column."""

    headings: list[str]
    layers: dict[str, list[str]]
    """Layer names of every file, one per column."""
    same: bool
    """Whether a column is the same layer of every file; otherwise it is the same share of the depth."""


def choose_columns(spec: FigureSpec, files: Mapping[str, TokenMaps], count: int = 7) -> Columns:
    """Choose the layers asked for, or ``count`` at equal shares of every network's depth, the output included.

    Raises:
        UserError: if a layer asked for is in none of the files.
    """
    known = {name: file.layers.tolist() for name, file in files.items()}
    if spec.layers:
        unknown = [layer for layer in spec.layers if not any(layer in layers for layers in known.values())]
        if unknown:
            longest = max(known.values(), key=len)
            raise UserError(f"layers {', '.join(unknown)} are in none of the maps; known: {', '.join(longest)}")
        return Columns([_heading(layer) for layer in spec.layers], {name: [*spec.layers] for name in files}, True)
    count = min([count, *map(len, known.values())])
    layers = {name: default_layers(known[name], count) for name in files}
    first, *others = layers.values()
    if all(other == first for other in others):
        return Columns([_heading(layer) for layer in first], layers, True)
    shares = [f"depth {number}/{count - 1}" for number in range(1, count - 1)]
    return Columns([*shares, "last block", OUTPUT], layers, False)


def _heading(layer: str) -> str:
    return layer if layer == OUTPUT else f"block {layer}"


def label_of(spec: FigureSpec, name: str) -> str:
    """Label of an input."""
    return spec.labels.get(name, name)


def image_position(spec: FigureSpec, file: TokenMaps) -> int:
    """Position of the image to show."""
    return 0 if spec.image is None else file.image(spec.image)


def time_position(spec: FigureSpec, file: TokenMaps) -> int:
    """Position of the time to show; an encoder has only one."""
    return 0 if len(file.times) == 1 else file.time(spec.time)


def is_denoiser(file: TokenMaps) -> bool:
    """Whether the maps are of a denoiser; an encoder sees only t = 0."""
    return bool(file.times.max() > 0)


def subject_of(file: TokenMaps) -> str:
    """What the maps are of."""
    return "the denoiser" if is_denoiser(file) else "the encoder"


def subtitle_parts(spec: FigureSpec) -> list[str]:
    """What every subtitle begins with."""
    return [spec.name, *([spec.note] if spec.note else [])]
