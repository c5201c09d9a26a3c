"""What a figure of maps shows: which layers, time and image, and how they are called."""

from __future__ import annotations

from collections.abc import Sequence

from dsr.analysis.maps import OUTPUT, TokenMaps, default_layers
from dsr.errors import UserError
from dsr.report.specs import FigureSpec


def choose_layers(spec: FigureSpec, files: Sequence[TokenMaps], count: int = 7) -> list[str]:
    """Return the layers asked for, or ``count`` among those that all files have.

    Raises:
        UserError: if a layer asked for is in none of the files.
    """
    shared = [layer for layer in files[0].layers.tolist() if all(layer in file.layers for file in files)]
    if not spec.layers:
        return default_layers(shared, count)
    unknown = [layer for layer in spec.layers if not any(layer in file.layers for file in files)]
    if unknown:
        raise UserError(f"layers {', '.join(unknown)} are in none of the maps; known: {', '.join(shared)}")
    return list(spec.layers)


def column_name(layer: str) -> str:
    """Heading of a layer."""
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


def subject_of(spec: FigureSpec, file: TokenMaps) -> str:
    """What the maps are of."""
    return spec.subject or ("the denoiser" if is_denoiser(file) else "the encoder")


def subtitle_parts(spec: FigureSpec) -> list[str]:
    """What every subtitle begins with."""
    return [spec.name, *([spec.note] if spec.note else [])]
