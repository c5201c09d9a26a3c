"""Softmax attention without a mask, forwards and backwards, by the kernels of this package."""

import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from dsr.accel import flash_backward, flash_kernels


class Tiles(NamedTuple):
    """How much a program takes at a time: of queries, of keys; its warps; how far it loads ahead (stages).

    Fewer ``registers`` for a thread than it would take let more programs run side by side.
    """

    queries: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None


class Plan(NamedTuple):
    """Tiles of the three kernels, and what the first does with a last token that is left over."""

    forward: Tiles
    queries: Tiles
    keys: Tiles
    alone: int = 0
    """Keys that the last token takes at a time if it would be a tile of its own and there is no backward pass; 0 makes
    it a tile like the others."""


SHORT = Plan(forward=Tiles(64, 64, 4, 3), queries=Tiles(64, 32, 4, 3), keys=Tiles(32, 64, 4, 3, 168))
"""For two bytes a channel."""
SHORT_WIDE = SHORT._replace(forward=Tiles(64, 64, 4, 2), keys=Tiles(32, 64, 4, 2))
"""The same for heads of more than 96 channels."""
LONG = Plan(forward=Tiles(128, 32, 8, 3), queries=Tiles(128, 64, 8, 2), keys=Tiles(32, 128, 8, 2), alone=128)
"""For four bytes a channel, on Hopper GPUs and later."""
LONG_WIDE = LONG._replace(queries=Tiles(128, 32, 8, 2))
"""The same for heads of more than 96 channels."""
LONG_SMALL = Plan(forward=Tiles(64, 32, 4, 2), queries=Tiles(64, 32, 4, 2), keys=Tiles(32, 64, 4, 2))
"""The same for GPUs before Hopper, which have less memory for a program; compiled for them, but not timed."""


def runs_on(device: torch.device) -> bool:
    """Whether ``device`` has tensor cores for TF32 and bf16, without which these kernels are slow."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _is_small(device: torch.device) -> bool:
    """Whether a program has less memory than on Hopper GPUs."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0)


def _plan(packed: Tensor) -> Plan:
    wide = packed.shape[-1] > 96
    if packed.element_size() == 2:
        return SHORT_WIDE if wide else SHORT
    if _is_small(packed.device):
        return LONG_SMALL
    return LONG_WIDE if wide else LONG


def _sizes(packed: Tensor) -> dict[str, int]:
    """Compile-time constants that all kernels share."""
    _, tokens, _, heads, head = packed.shape
    main = max(16, 1 << (head.bit_length() - 1))
    rest = max(16, triton.next_power_of_2(head - main)) if head > main else 0
    return {"TOKENS": tokens, "HEADS": heads, "HEAD": head, "MAIN": main, "REST": rest}


def _launch(tiles: Tiles) -> dict[str, int | None]:
    return dict(zip(("QUERIES", "KEYS", "num_warps", "num_stages", "maxnreg"), tiles, strict=True))


def forward(packed: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
    """Attention without a mask: queries, keys and values (B, N, 3, h, d) -> (B, N, h, d).

    Also returns the log-sum-exp of the scores for the backward pass, (B, h, N) fp32; uninitialised unless ``keep``.
    """
    images, tokens, _, heads, head = packed.shape
    attended = packed.new_empty(images, tokens, heads, head)
    lse = packed.new_empty(images, heads, tokens, dtype=torch.float32)
    sizes, (tiles, _, _, alone) = _sizes(packed), _plan(packed)
    if keep or tokens % tiles.queries != 1:
        alone = 0
    last = max(16, triton.next_power_of_2(tokens % tiles.keys))
    flash_kernels.attend_forward[(triton.cdiv(tokens, tiles.queries) * images * heads,)](
        packed, attended, lse, head**-0.5 / math.log(2),
        **sizes, LAST=last, ALONE=alone, KEEP=keep, **_launch(tiles),
    )  # fmt: skip
    return attended, lse


def backward(
    packed: Tensor, attended: Tensor, lse: Tensor, grad_attended: Tensor, cosines: Tensor, sines: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient of what was packed before RoPE rotated queries and keys by the tables, (N, d / 2): (B, N, 3, h, d).

    Also returns its sum over images and tokens, (3 h d,) fp32, the gradient of the projection's bias.
    """
    images, tokens, _, heads, head = packed.shape
    grad_packed, delta, factor = torch.empty_like(packed), torch.empty_like(lse), head**-0.5 / math.log(2)
    sizes, (_, queries, keys, _) = _sizes(packed), _plan(packed)
    parts = triton.cdiv(tokens, queries.queries), triton.cdiv(tokens, keys.keys)
    query_sums = packed.new_empty(images * parts[0], heads * head, dtype=torch.float32)
    key_sums = packed.new_empty(images * parts[1], 2 * heads * head, dtype=torch.float32)
    flash_backward.attend_backward_queries[(parts[0] * images * heads,)](
        packed, attended, lse, grad_attended, delta, grad_packed, query_sums, cosines, sines, factor, head**-0.5,
        **sizes, **_launch(queries),
    )  # fmt: skip
    flash_backward.attend_backward_keys[(parts[1] * images * heads,)](
        packed, lse, grad_attended, delta, grad_packed, key_sums, cosines, sines, factor, head**-0.5,
        **sizes, **_launch(keys),
    )  # fmt: skip
    return grad_packed, torch.cat([query_sums.sum(0), key_sums.sum(0)])


@torch.library.custom_op("dsr::attend", mutates_args=())
def attend(packed: Tensor) -> Tensor:
    """Attention (B, N, 3, h, d) -> (B, N, h, d) of a frozen model, which PyTorch's compiler leaves as it is."""
    return forward(packed.contiguous(), keep=False)[0]


@attend.register_fake
def _(packed: Tensor) -> Tensor:
    images, tokens, _, heads, head = packed.shape
    return packed.new_empty(images, tokens, heads, head)
