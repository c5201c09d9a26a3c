"""The blocks of a frozen denoiser: `dsr.accel.fused` without what gradients need, and with products that do more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dsr.accel import flash_attention as flash
from dsr.accel import matmul as products
from dsr.accel.fused import Angles, BlockRunner, modulate, padded
from dsr.accel.matmul import Scaled
from dsr.denoiser.layers import Attention, Block, SwiGLU

EIGHT_BITS = torch.float8_e4m3fn
"""Four bits of exponent, three of mantissa: a number is rounded by up to 6 %."""


class _Mlp(NamedTuple):
    first: Tensor | Scaled
    bias: Tensor
    last: Tensor


class FrozenBlocks(BlockRunner[Tensor | Scaled]):
    """Runs blocks whose weights are bf16 and stay what they are, on GPUs that `dsr.accel.matmul` runs on.

    Args:
        blocks: all that will be run.
        eight_bits: round both factors of the two large products, to queries, keys and values and into the MLP, to
            eight-bit numbers, each row with a scale of its own. That is an approximation, at twice the speed.
    """

    def __init__(self, blocks: Iterable[Block], *, eight_bits: bool) -> None:
        self._eight_bits = eight_bits
        blocks = list(blocks)
        projections = {block.attn: block.attn.qkv for block in blocks}
        self._projections = {attn: (self._rounded(qkv.weight), qkv.bias.float()) for attn, qkv in projections.items()}
        self._mlps = {block.mlp: self._interleaved(block.mlp) for block in blocks}

    def _modulated(
        self, x: Tensor, update: Tensor | None, bias: Tensor | None, gate: Tensor | None, weight: Tensor, scale: Tensor,
        shift: Tensor,
    ) -> tuple[Tensor, Tensor | Scaled]:  # fmt: skip
        if not self._eight_bits:
            return modulate(x, update, bias, gate, weight, scale, shift, dtype=scale.dtype)[:2]
        stream, hidden, scales = modulate(
            x, update, bias, gate, weight, scale, shift, dtype=EIGHT_BITS, largest=torch.finfo(EIGHT_BITS).max
        )
        return stream, Scaled(hidden, scales, scale.dtype)

    def _attention(self, layer: Attention, hidden: Tensor | Scaled, angles: Angles) -> Tensor:
        packed = products.rotated(hidden, *self._projections[layer], *angles, layer.heads)
        return F.linear(flash.forward(packed, keep=False)[0].flatten(2), layer.proj.weight)

    def _mlp(self, layer: SwiGLU, hidden: Tensor | Scaled) -> Tensor:
        mlp = self._mlps[layer]
        return F.linear(products.gated(hidden, mlp.first, mlp.bias), mlp.last)

    def _interleaved(self, layer: SwiGLU) -> _Mlp:
        """Return weights and bias with gate and value of a channel side by side, as a product takes them."""
        first, bias, last = padded(layer)
        return _Mlp(self._rounded(first.transpose(0, 1).flatten(0, 1)), bias.t().flatten().float(), last.contiguous())

    def _rounded(self, weight: Tensor) -> Tensor | Scaled:
        """Return a weight (M, D) as products take it."""
        if not self._eight_bits:
            return weight.contiguous()
        scales = weight.float().abs().amax(1).clamp(min=1e-30) / torch.finfo(EIGHT_BITS).max
        return Scaled((weight / scales[:, None]).to(EIGHT_BITS), scales, weight.dtype)
