"""The blocks of a frozen denoiser: `dsr.accel.fused` without gradients, and with matmuls that do more."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from dsr.accel import flash_attention
from dsr.accel.fused import Angles, FusedBlocks, padded
from dsr.accel.matmul import matmul_rope, matmul_swiglu
from dsr.denoiser.layers import Attention, Block, SwiGLU


class FrozenBlocks(FusedBlocks):
    """Runs blocks whose weights are bf16 and stay what they are, on GPUs that `dsr.accel.matmul` runs on.

    Args:
        blocks: all that will be run.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        super().__init__(fuse_rope=True)
        blocks = list(blocks)
        self._biases = {block.attn: block.attn.qkv.bias.float() for block in blocks}
        self._mlps = {block.mlp: _interleaved(block.mlp) for block in blocks}

    def _attention(self, layer: Attention, hidden: Tensor, angles: Angles) -> Tensor:
        packed = matmul_rope(hidden, layer.qkv.weight, self._biases[layer], *angles, layer.heads)
        return F.linear(flash_attention.forward(packed, keep=False)[0].flatten(2), layer.proj.weight)

    def _mlp(self, layer: SwiGLU, hidden: Tensor) -> Tensor:
        first, bias, last = self._mlps[layer]
        return F.linear(matmul_swiglu(hidden, first, bias), last)


def _interleaved(layer: SwiGLU) -> tuple[Tensor, Tensor, Tensor]:
    """First weight (2 M, D) and bias (2 M,) with gate and value of a channel side by side, and last weight (D, M)."""
    first, bias, last = padded(layer)
    return first.transpose(0, 1).flatten(0, 1).contiguous(), bias.t().flatten().float(), last.contiguous()
