"""Parameters and FLOPs of the networks by formula, so that neither a plan nor a table needs PyTorch.

FLOPs are of one forward pass of one image: matmuls and attention, two per multiply-add, as the paper counts. A test
compares the formulas with the modules.
"""

from dataclasses import dataclass

from dsr.config.specs import AutoencoderSpec, ModelSpec

TIME_FEATURES = 512
"""Sines and cosines of the time embedding."""


@dataclass(frozen=True)
class Cost:
    """What a denoiser, or a part of one, costs."""

    parameters: int
    """All parameters, position tables and Fourier frequencies included."""
    trainable: int
    """Parameters without position tables and Fourier frequencies, which the published counts leave out."""
    flops: int
    """One forward pass of one image."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.trainable + other.trainable, self.flops + other.flops)


def denoiser_cost(spec: ModelSpec) -> Cost:
    """Cost of a denoiser."""
    shape, image, stacks = spec.denoiser, spec.grid**2, spec.denoiser.stacks
    width, last = stacks[0][0], stacks[-1][0]
    labels = spec.classes + (shape.class_dropout > 0)
    cost = _linear(TIME_FEATURES, width, 1) + _linear(width, width, 1) + _weights(labels * width)
    cost += _linear(spec.channels, last, image)
    # The modulated layer from tokens back to a latent.
    conditions = image if len(stacks) > 1 else 1
    cost += _linear(last, spec.channels, image) + _linear(last, 2 * last, conditions) + _weights(last)
    cost += _frozen(TIME_FEATURES // 2 + image * width)
    for number, (stack, depth, _) in enumerate(stacks):
        cost += _weights(spec.registers * stack) + _frozen(spec.registers * stack)
        for block in range(depth):
            tokens = image + (spec.registers if number or block >= shape.register_start else 0)
            # The head's modulation differs from token to token.
            cost += _block(stack, shape.mlp_ratio, tokens, conditions=tokens if number else 1)
    if len(stacks) > 1:
        cost += _linear(spec.channels, width, image)
        if width != last:
            cost += _linear(width, last, image + spec.registers)
    return cost


def decoder_flops(spec: AutoencoderSpec) -> int:
    """FLOPs of the pixel decoder; it sees one token more than a latent has."""
    shape, tokens = spec.decoder, spec.encoder.grid**2
    pixels = 3 * (spec.image_size // spec.encoder.grid) ** 2
    blocks = transformer_flops(shape.hidden_size, shape.depth, shape.intermediate_size, tokens + 1)
    return blocks + 2 * shape.hidden_size * (tokens * spec.encoder.width + (tokens + 1) * pixels)


def transformer_flops(width: int, depth: int, intermediate_size: int, tokens: int) -> int:
    """FLOPs of a vision transformer's blocks; its patch embedding is left out."""
    return depth * tokens * width * (8 * width + 4 * intermediate_size + 4 * tokens)


def transformer_parameters(width: int, depth: int, intermediate_size: int) -> int:
    """Parameters of the same blocks: projections with biases, and two LayerNorms."""
    return depth * (4 * width * width + 2 * width * intermediate_size + 9 * width + intermediate_size)


def _block(width: int, mlp_ratio: float, tokens: int, *, conditions: int) -> Cost:
    """A block with SwiGLU, two RMSNorms, and modulation by ``conditions`` vectors."""
    hidden = int(2 / 3 * int(width * mlp_ratio))
    attention = _linear(width, 4 * width, tokens) + Cost(0, 0, 4 * tokens**2 * width)
    mlp = _linear(width, 2 * hidden, tokens) + _linear(hidden, width, tokens)
    return attention + mlp + _linear(width, 6 * width, conditions) + _weights(2 * width)


def _linear(inputs: int, outputs: int, tokens: int) -> Cost:
    return _weights(inputs * outputs + outputs) + Cost(0, 0, 2 * tokens * inputs * outputs)


def _weights(count: int) -> Cost:
    return Cost(count, count, 0)


def _frozen(count: int) -> Cost:
    return Cost(count, 0, 0)
