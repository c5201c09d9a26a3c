"""Softmax attention without a mask, as PyTorch computes it; `dsr.flash` is what GPUs run instead."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def attend(packed: Tensor) -> Tensor:
    """Queries, keys and values (B, N, 3, h, d) -> (B, N, h, d)."""
    query, key, value = packed.transpose(1, 3).unbind(2)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
