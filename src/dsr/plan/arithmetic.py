"""Parameters and arithmetic of the networks by formula, so that a plan needs no PyTorch.

FLOPs are of one forward pass of one image: matrix products and attention, two per multiply-add, as the paper counts.
`dsr.analysis.cost` counts the same on the real modules, and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsr.config.base import Positive, Section
from dsr.config.denoisers import Dit, DitDh
from dsr.config.specs import AutoencoderSpec, ModelSpec

TIME_FEATURES = 512
"""Sines and cosines of the time embedding."""


@dataclass(frozen=True)
class Size:
    """What a network costs."""

    parameters: int
    """All parameters, position tables and Fourier frequencies included."""
    flops: int
    """One forward pass of one image."""

    def __add__(self, other: Size) -> Size:
        return Size(self.parameters + other.parameters, self.flops + other.flops)


NOTHING = Size(0, 0)


class Tower(Section):
    """Shape of a vision transformer."""

    width: Positive
    depth: Positive
    intermediate_size: Positive
    tokens: Positive


def denoiser(spec: ModelSpec) -> Size:
    """Size of a denoiser."""
    match spec.denoiser:
        case Dit() as shape:
            return _dit(spec, shape)
        case DitDh() as shape:
            return _dit_dh(spec, shape)


def decoder(spec: AutoencoderSpec) -> Size:
    """Size of the pixel decoder; it sees one token more than a latent has."""
    shape, patches = spec.decoder, spec.encoder.grid**2
    tower = Tower(
        width=shape.hidden_size, depth=shape.depth, intermediate_size=shape.intermediate_size, tokens=patches + 1
    )
    pixels = 3 * (spec.image_size // spec.encoder.grid) ** 2
    ends = _linear(spec.encoder.width, shape.hidden_size, patches) + _linear(shape.hidden_size, pixels, patches + 1)
    return transformer(tower) + ends


def transformer(tower: Tower) -> Size:
    """Size of a plain vision transformer's blocks; patch embedding and position table are left out."""
    width, tokens = tower.width, tower.tokens
    block = _linear(width, 4 * width, tokens) + _attention(width, tokens)
    block += _linear(width, tower.intermediate_size, tokens) + _linear(tower.intermediate_size, width, tokens)
    return Size(tower.depth * (block.parameters + 4 * width), tower.depth * block.flops)


def _dit(spec: ModelSpec, shape: Dit) -> Size:
    tokens, width = spec.grid**2, shape.hidden_size
    blocks = _stack(spec, width, shape.depth)
    parameters = tokens * width + 2 * spec.registers * width
    return blocks + _conditions(spec, width) + _ends(spec, width, tokens, 1) + Size(parameters, 0)


def _dit_dh(spec: ModelSpec, shape: DitDh) -> Size:
    image, (width, head) = spec.grid**2, shape.hidden_size
    tokens = image + spec.registers
    size = _stack(spec, width, shape.depth[0]) + _conditions(spec, width)
    for _ in range(shape.depth[1]):
        size += _block(head, _hidden(head, shape.mlp_ratio), tokens, conditions=tokens)
    size += _linear(spec.channels, width, image) + _ends(spec, head, image, image)
    if width != head:
        size += _linear(width, head, tokens)
    return size + Size(image * width + 2 * spec.registers * (width + head), 0)


def _stack(spec: ModelSpec, width: int, depth: int) -> Size:
    """Blocks of one width; registers enter on the way."""
    size = NOTHING
    for number in range(depth):
        inside = spec.registers if number >= spec.denoiser.register_start else 0
        size += _block(width, _hidden(width, spec.denoiser.mlp_ratio), spec.grid**2 + inside, conditions=1)
    return size


def _block(width: int, hidden: int, tokens: int, *, conditions: int) -> Size:
    size = _linear(width, 4 * width, tokens) + _attention(width, tokens)
    size += _linear(width, 2 * hidden, tokens) + _linear(hidden, width, tokens)
    return size + _linear(width, 6 * width, conditions) + Size(2 * width, 0)


def _hidden(width: int, ratio: float) -> int:
    return int(2 / 3 * int(width * ratio))


def _attention(width: int, tokens: int) -> Size:
    return Size(0, 4 * tokens**2 * width)


def _conditions(spec: ModelSpec, width: int) -> Size:
    """Embeddings of time and label."""
    labels = (spec.classes + (spec.denoiser.class_dropout > 0)) * width
    return _linear(TIME_FEATURES, width, 1) + _linear(width, width, 1) + Size(labels + TIME_FEATURES // 2, 0)


def _ends(spec: ModelSpec, width: int, tokens: int, conditions: int) -> Size:
    """From latent to tokens and back."""
    size = _linear(spec.channels, width, tokens) + _linear(width, spec.channels, tokens)
    return size + _linear(width, 2 * width, conditions) + Size(width, 0)


def _linear(inputs: int, outputs: int, tokens: int) -> Size:
    return Size(inputs * outputs + outputs, 2 * tokens * inputs * outputs)
