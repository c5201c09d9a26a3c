"""Diffusion registers (Section 4 of the paper): learned tokens that share the sequence with the image tokens.

They enter before a chosen block, attend and are attended to, and are dropped before the output. They carry the
sin-cos positions of their own small grid and are not turned by rotary positions (see `RotaryPositions`). To give
them to another transformer:

    self.register_tokens, self.register_pos_embed = registers.create(36, width)
    ...
    for index, block in enumerate(self.blocks):
        if index == start:
            x = registers.insert(x, self.register_tokens, self.register_pos_embed)
        x = block(x)
    x = registers.strip(x, 36)

They are two parameters of the model that owns them, and not a submodule, because released checkpoints name them so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dsr.denoiser.layers import position_table
from dsr.errors import UserError


def check(count: int, start: int, depth: int) -> None:
    """Refuse settings in which registers would not work.

    Raises:
        UserError: if ``count`` is no perfect square, or no block of ``depth`` comes after ``start``.
    """
    if count < 0 or math.isqrt(count) ** 2 != count:
        raise UserError(f"registers {count}: give 0 or a perfect square (their positions form a square grid)")
    if count and not 0 <= start < depth:
        raise UserError(f"register_start {start}: registers enter before one of the blocks 0 to {depth - 1}")


def create(count: int, width: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Return tokens, drawn from N(0, 1), and their positions; both (1, R, D)."""
    tokens = nn.Parameter(torch.randn(1, count, width))
    return tokens, nn.Parameter(position_table(width, math.isqrt(count)))


def insert(x: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
    """Prepend registers to every sequence: (B, N, D) -> (B, R + N, D)."""
    return torch.cat([(tokens + positions).expand(len(x), -1, -1).type_as(x), x], dim=1)


def strip(x: Tensor, count: int) -> Tensor:
    """Drop the registers again: (B, R + N, D) -> (B, N, D)."""
    return x[:, count:]
