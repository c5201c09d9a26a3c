"""Self-attention of a frozen ViT encoder: one matmul for queries, keys and values, which stay packed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def attend(packed: torch.Tensor) -> torch.Tensor:
    """Softmax attention without a mask: queries, keys and values (B, T, 3, h, d) -> (B, T, h, d)."""
    query, key, value = packed.transpose(1, 3).unbind(2)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with the weights of four linear layers, which stay where they are.

    ``attend`` maps queries, keys and values (B, T, 3, heads, d) to (B, T, heads, d); `dsr.accel.encoder` sets it.

    Args:
        query, key, value, output: projections D -> D.
        heads: attention heads.
    """

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, output: nn.Linear, heads: int) -> None:
        super().__init__()
        self.q_proj = query
        self.k_proj = key
        self.v_proj = value
        self.out_proj = output
        self.num_heads = heads
        self.attend: Callable[[torch.Tensor], torch.Tensor] = attend

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, T, D) to (B, T, D)."""
        parts = (self.q_proj, self.k_proj, self.v_proj)
        weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        packed = F.linear(x, weight, bias).view(*x.shape[:2], 3, self.num_heads, -1)
        output: torch.Tensor = self.out_proj(self.attend(packed).flatten(2))
        return output

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """Attention weights (B, heads, T, T) of :meth:`forward`; every row sums to 1."""
        query, key = (
            part(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj)
        )
        scores: torch.Tensor = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        return scores.softmax(-1)
