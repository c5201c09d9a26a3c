"""What a figure of maps shows: which layers, time and image, and how they are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsr.analysis.maps import OUTPUT, TokenMaps, equal_shares
from dsr.report.specs import FigureSpec

_SHARES = 6
"""Blocks that are shown where none are asked for."""


@dataclass(frozen=True)
class Columns:
    """Which layer of each file is in which column."""

    headings: list[str]
    layers: dict[str, list[str]]
    """Layer names of every file, one per column."""
    same: bool
    """Whether a column is the same layer of every file; otherwise it is the same share of the depth."""


def choose_columns(spec: FigureSpec, files: Mapping[str, TokenMaps]) -> Columns:
    """Choose the blocks asked for if every network has them, or some at equal shares of every depth, and the output."""
    known = {name: [layer for layer in file.layers.tolist() if layer != OUTPUT] for name, file in files.items()}
    chosen = [*map(str, spec.layers)]
    if not chosen or any(layer not in blocks for blocks in known.values() for layer in chosen):
        count = min([_SHARES, *map(len, known.values())])
        layers = {name: equal_shares(blocks, count) for name, blocks in known.items()}
    else:
        layers = dict.fromkeys(files, chosen)
    first, *others = layers.values()
    same = all(other == first for other in others)
    shares = [f"depth {number}/{len(first)}" for number in range(1, len(first))]
    headings = [f"block {layer}" for layer in first] if same else [*shares, "last block"]
    return Columns([*headings, OUTPUT], {name: [*blocks, OUTPUT] for name, blocks in layers.items()}, same)


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
