"""Blocks of a pre-norm ViT, walked one by one so that activations can be read and edited without hooks."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def attend(packed: torch.Tensor) -> torch.Tensor:
    """Softmax attention without a mask: queries, keys and values (B, T, 3, h, d) -> (B, T, h, d)."""
    query, key, value = packed.transpose(1, 3).unbind(2)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with the weights of four linear layers D -> D, which stay where they are.

    ``attend`` maps queries, keys and values (B, T, 3, heads, d) to (B, T, heads, d); `dsr.accel.models` sets it.
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


class Mlp(nn.Module):
    """The two-layer MLP of a block, with its hidden activations in the open."""

    def __init__(self, fc1: nn.Linear, activation: Callable[[torch.Tensor], torch.Tensor], fc2: nn.Linear) -> None:
        super().__init__()
        self.fc1 = fc1
        self.activation = activation
        self.fc2 = fc2

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Activations after the nonlinearity: (B, T, D) -> (B, T, M)."""
        return self.activation(self.fc1(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, T, D) to (B, T, D)."""
        output: torch.Tensor = self.fc2(self.hidden(x))
        return output


class Block(nn.Module):
    """A pre-norm transformer block: x += scale1(attention(norm1(x))); x += scale2(mlp(norm2(x))).

    ``mlp`` may intervene. ``scale1`` and ``scale2`` are DINOv2's LayerScale; None leaves things as they are.
    """

    def __init__(
        self,
        norm1: nn.Module,
        attention: Attention,
        norm2: nn.Module,
        mlp: Mlp,
        *,
        scale1: nn.Module | None = None,
        scale2: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.attention = attention
        self.norm2 = norm2
        self.mlp = mlp
        self.scale1 = nn.Identity() if scale1 is None else scale1
        self.scale2 = nn.Identity() if scale2 is None else scale2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the residual stream (B, T, D) to the next one."""
        return self.trace(x)[0]

    def trace(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next residual stream (B, T, D) and the MLP's hidden activations (B, T, M) that led to it."""
        x = x + self.scale1(self.attention(self.norm1(x)))
        hidden = self.mlp.hidden(self.norm2(x))
        return x + self.scale2(self.mlp.fc2(hidden)), hidden
