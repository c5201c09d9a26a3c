"""Diffusion registers (Section 4 of the paper): learned tokens that share the sequence with the image tokens.

They enter before a chosen block, attend and are attended to, and are dropped before the output. They carry the
sin-cos positions of their own small grid and are not rotated by RoPE. In our own denoisers they are two parameters of
the model, because released checkpoints name them so; another model gets them by `add_diffusion_registers`.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dsr.base.errors import UserError
from dsr.base.positions import position_table
from dsr.registers.layout import Change, change_arguments, change_tokens

Model = TypeVar("Model", bound=nn.Module)


def create(count: int, width: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Return tokens, drawn from N(0, 1), and their positions; both (1, R, D).

    Raises:
        UserError: if ``count`` is no perfect square.
    """
    if math.isqrt(count) ** 2 != count:
        raise UserError(f"registers {count}: give 0 or a perfect square (their positions form a square grid)")
    tokens = nn.Parameter(torch.empty(1, count, width).normal_())
    return tokens, nn.Parameter(position_table(width, math.isqrt(count)))


def insert(x: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
    """Prepend registers to every sequence: (B, N, D) -> (B, R + N, D)."""
    return torch.cat([(tokens + positions).expand(len(x), -1, -1).type_as(x), x], dim=1)


def strip(x: Tensor, count: int) -> Tensor:
    """Drop the registers again: (B, R + N, D) -> (B, N, D)."""
    return x[:, count:]


class DiffusionRegisters(nn.Module):
    """The registers of another model; a checkpoint without them leaves them as they are."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.tokens, self.positions = create(count, width)
        self.register_load_state_dict_pre_hook(self._keep_missing)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, R + N, D)."""
        return insert(x, self.tokens, self.positions)

    @staticmethod
    def _keep_missing(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        for name, value in module.named_parameters():
            state.setdefault(prefix + name, value.detach())


def add_diffusion_registers(
    model: Model,
    blocks: nn.ModuleList,
    *,
    start: int,
    width: int,
    count: int = 36,
    arguments: Mapping[str, Change] | None = None,
) -> Model:
    """Give a diffusion transformer registers: ``model`` itself, with two more parameters in ``diffusion_registers``.

    Names, attributes and calls of all its parts stay what they are. Call it before the optimizer and the moving average
    are made.

    Args:
        model: calls ``blocks`` one after the other.
        blocks: take and return tokens (B, N, D), first and for any N; what else they take and return is passed on.
        start: registers enter before this block, and leave after the last one. The paper: 8 of 28.
        width: D, a multiple of 4.
        count: R, a perfect square.
        arguments: name of another argument of the blocks from ``start`` on -> what makes of its value the one that
            serves R + N tokens, registers first. Needed for what has a row per token: rotary tables (`unrotated`),
            conditions per token (`repeated`), attention masks.

    Raises:
        ValueError: if a block, an argument or the square does not exist, or the model has registers.
    """
    if not 0 <= start < len(blocks):
        raise UserError(f"start {start}: the model has blocks 0-{len(blocks) - 1}")
    if hasattr(model, "diffusion_registers"):
        raise ValueError("the model has diffusion registers already")
    reference = next(blocks.parameters())
    registers = DiffusionRegisters(count, width).to(reference.device, reference.dtype)
    model.add_module("diffusion_registers", registers)
    for number, block in enumerate(blocks[start:]):
        change_arguments(block, (lambda x: x) if number else registers, arguments)
    blocks[-1].register_forward_hook(lambda _, __, output: change_tokens(output, lambda x: strip(x, count)))
    return model


def unrotated(tables: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Put registers in front of rotary tables (cosine, sine), (..., N, d) each: they are not rotated."""
    cosine, sine = tables
    shape = (*cosine.shape[:-2], count, cosine.shape[-1])
    return torch.cat([cosine.new_ones(shape), cosine], -2), torch.cat([sine.new_zeros(shape), sine], -2)


def repeated(condition: Tensor, count: int) -> Tensor:
    """Put registers in front of conditions per token, (B, N, D): the mean of the image's (ours to choose)."""
    return torch.cat([condition.mean(1, keepdim=True).expand(-1, count, -1), condition], 1)
