"""Softmax attention by the kernel that is fastest where it runs; the choices come from `benchmarks/kernels.py`."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention without a mask: (B, heads, N, d), three times -> (B, heads, N, d).

    PyTorch's fused kernels serve everything but TF32: for float32 they take three TF32 products where all other
    layers take one.
    """
    if not is_tf32(query):
        return F.scaled_dot_product_attention(query, key, value)
    # The generated kernel exists in compiled code only, pads heads to a power of two, and has a slow backward pass.
    width = query.shape[-1]
    if torch.compiler.is_compiling() and width & (width - 1) == 0 and not torch.is_grad_enabled():
        return cast(Tensor, flex_attention(query, key, value))
    return by_products(query, key, value)


def is_tf32(x: Tensor) -> bool:
    """Whether products of ``x`` are made in TF32."""
    return x.is_cuda and x.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32


def by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same by two batched matrix products; it keeps all weights, (B, heads, N, N), for the backward pass."""
    shape, scale = query.shape, query.shape[-1] ** -0.5
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    scores = torch.baddbmm(query.new_empty(1), query, key.transpose(1, 2), beta=0, alpha=scale)
    attended: Tensor = scores.softmax(-1) @ value
    return attended.view(shape)
