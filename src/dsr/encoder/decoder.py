"""The ViT that turns latents back into pixels (parameter names are those of the published decoders)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from dsr.base.positions import position_table

NORM_EPS = 1e-12
"""Epsilon of every LayerNorm of the decoder."""


class ViTDecoder(nn.Module):
    """Pixels from latent tokens: linear, CLS token, fixed positions, pre-norm blocks, linear to patches.

    Args:
        in_channels: channels C of a latent.
        hidden_size: width of a token, a multiple of four.
        depth: number of blocks.
        num_heads: attention heads.
        intermediate_size: hidden width of the MLP.
        patch_size: side of an output patch in pixels.
        grid: tokens along one side.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        intermediate_size: int,
        patch_size: int,
        grid: int,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.grid = grid
        self.decoder_embed = nn.Linear(in_channels, hidden_size)
        self.trainable_cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        # A zero row for CLS, then the patches' positions.
        positions = F.pad(position_table(hidden_size, grid), (0, 0, 1, 0))
        self.decoder_pos_embed = nn.Parameter(positions, requires_grad=False)
        self.decoder_layers = nn.ModuleList(_Layer(hidden_size, num_heads, intermediate_size) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(hidden_size, patch_size**2 * 3)
        self.apply(_initialise)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Decode latent tokens (B, grid², C) to standardised pixels (B, 3, grid * patch, grid * patch)."""
        x = self.decoder_embed(tokens)
        x = torch.cat([self.trainable_cls_token.expand(len(x), -1, -1), x], dim=1) + self.decoder_pos_embed
        for layer in self.decoder_layers:
            x = layer(x)
        patches = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        # A token's channels are rows, columns and colours of its patch.
        split: torch.Tensor = patches.reshape(len(x), self.grid, self.grid, self.patch_size, self.patch_size, 3)
        return split.permute(0, 5, 1, 3, 2, 4).reshape(len(x), 3, *[self.grid * self.patch_size] * 2)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, intermediate: int) -> None:
        super().__init__()
        self.heads = heads
        self.layernorm_before = nn.LayerNorm(width, eps=NORM_EPS)
        projections = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"attention": projections, "output": _dense(width, width)})
        self.layernorm_after = nn.LayerNorm(width, eps=NORM_EPS)
        self.intermediate = _dense(width, intermediate)
        self.output = _dense(intermediate, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T, D)."""
        normed = self.layernorm_before(x)
        q, k, v = (
            part(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attention["attention"].children()
        )
        x = x + self.attention["output"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        update: torch.Tensor = self.output(F.gelu(self.intermediate(self.layernorm_after(x))))
        return x + update


def _dense(inputs: int, outputs: int) -> nn.Sequential:
    """One linear layer under the name ``dense``."""
    return nn.Sequential(OrderedDict(dense=nn.Linear(inputs, outputs)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
