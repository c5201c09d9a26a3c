"""Diffusion registers (Section 4 of the paper): learned tokens that share the sequence with the image tokens.

They enter before a chosen block, attend and are attended to, and are dropped before the output. They carry the
sin-cos positions of their own small grid and are not rotated by RoPE (see `RotaryPositions`). To give
them to another transformer, replace two of its layers (docs/registers.md):

    dit.blocks[8] = registers.Entry(dit.blocks[8], count=36, width=1152)
    dit.final_layer = registers.Exit(dit.final_layer, count=36)

In our own denoisers they are two parameters of the model, because released checkpoints name them so.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dsr.base.errors import UserError
from dsr.base.positions import position_table


def create(count: int, width: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Return tokens, drawn from N(0, 1), and their positions; both (1, R, D).

    Raises:
        UserError: if ``count`` is no perfect square.
    """
    if math.isqrt(count) ** 2 != count:
        raise UserError(f"registers {count}: give 0 or a perfect square (their positions form a square grid)")
    tokens = nn.Parameter(torch.randn(1, count, width))
    return tokens, nn.Parameter(position_table(width, math.isqrt(count)))


def insert(x: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
    """Prepend registers to every sequence: (B, N, D) -> (B, R + N, D)."""
    return torch.cat([(tokens + positions).expand(len(x), -1, -1).type_as(x), x], dim=1)


def strip(x: Tensor, count: int) -> Tensor:
    """Drop the registers again: (B, R + N, D) -> (B, N, D)."""
    return x[:, count:]


class Entry(nn.Module):
    """A block of another model, before which registers enter; whatever the block gets besides tokens is passed on.

    Args:
        block: takes tokens (B, R + N, D) first, for any number of them.
        count: registers R, a perfect square.
        width: width D of a token, a multiple of 4.
    """

    def __init__(self, block: nn.Module, *, count: int, width: int) -> None:
        super().__init__()
        self.block = block
        self.tokens, self.positions = create(count, width)

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Any:
        """Tokens (B, N, D) -> what the block makes of (B, R + N, D)."""
        return self.block(insert(x, self.tokens, self.positions), *arguments, **options)


class Exit(nn.Module):
    """A layer of another model, before which ``count`` registers leave."""

    def __init__(self, layer: nn.Module, *, count: int) -> None:
        super().__init__()
        self.layer = layer
        self.count = count

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Any:
        """Tokens (B, R + N, D) -> what the layer makes of (B, N, D)."""
        return self.layer(strip(x, self.count), *arguments, **options)
