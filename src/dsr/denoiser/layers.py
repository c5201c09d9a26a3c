"""Layers shared by both denoisers: normalisation, rotary attention, SwiGLU, modulated block, embedders.

Shapes: B images, N tokens (S x S, row-major), D width, h heads, d = D / h. A condition is (B, 1, D) for one vector
per image or (B, N, D) for one per token; the same layers take both.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
"""Added to the mean square in every RMSNorm."""

ROTARY_BASE = 10000.0
"""Base of the rotary frequencies."""

TIME_FREQUENCIES = 256
"""Gaussian Fourier frequencies of the time embedding."""

NARROW = 0.02
"""Standard deviation of label vectors and time-MLP weights at the start."""


class RMSNorm(nn.Module):
    """Modulated root-mean-square normalisation, computed in fp32 and cast back before the weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Normalise, scale around one and shift: (B, N, D), twice (B, 1 or N, D) -> (B, N, D).

        Both scales are multiplied before they meet the tokens, so that backward sums over the tokens once, not twice.
        """
        normalised = F.rms_norm(x.float(), self.weight.shape, eps=EPS).type_as(x)
        modulated: Tensor = normalised * (self.weight * (1 + scale)) + shift
        return modulated


class RotaryPositions(nn.Module):
    """RoPE of an S x S grid: the first half of a head is rotated by the row, the second half by the column.

    ``registers`` tokens before the grid have no position and are not rotated. The tables are buffers of the state
    dict, each of shape (registers + S * S, d); d is a multiple of 4, two axes of channel pairs.
    """

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, head_width: int, grid: int, registers: int = 0) -> None:
        super().__init__()
        half = head_width // 2
        frequencies = ROTARY_BASE ** (-torch.arange(0, half, 2).float() / half)
        angles = torch.outer(torch.arange(grid).float(), frequencies).repeat_interleave(2, dim=1)
        rows = angles[:, None].expand(grid, grid, half)
        columns = angles[None].expand(grid, grid, half)
        angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)
        angles = torch.cat([torch.zeros(registers, head_width), angles])
        self.register_buffer("freqs_cos", angles.cos())
        self.register_buffer("freqs_sin", angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        """Rotate queries or keys (B, N, ..., d); computed in the tables' fp32, returned in the input's dtype."""
        even, odd = x.view(*x.shape[:-1], -1, 2).unbind(-1)
        rotated = torch.stack([-odd, even], dim=-1).flatten(-2)
        shape = (len(self.freqs_cos), *[1] * (x.ndim - 3), x.shape[-1])
        return (x * self.freqs_cos.view(shape) + rotated * self.freqs_sin.view(shape)).type_as(x)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: RotaryPositions) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        query, key, value = self._project(x, rope)
        attended = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected

    def weights(self, x: Tensor, rope: RotaryPositions) -> Tensor:
        """Attention weights that :meth:`forward` uses, fp32 (B, h, N queries, N keys); every row sums to 1."""
        query, key, _ = self._project(x, rope)
        scores = query.float() @ key.float().transpose(-2, -1) / math.sqrt(query.shape[-1])
        return scores.softmax(-1)

    def _project(self, x: Tensor, rope: RotaryPositions) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (B, h, N, d), in memory as (B, N, h, d): attention then copies nothing."""
        projected = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        query, key = rope(projected[:, :, :2]).permute(2, 0, 3, 1, 4)
        return query, key, projected[:, :, 2].transpose(1, 2)


class SwiGLU(nn.Module):
    """Gated MLP; the hidden width is 2/3 of ``mlp_ratio`` widths, so that it costs what a plain MLP does."""

    def __init__(self, width: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(2 / 3 * int(width * mlp_ratio))
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        projected: Tensor = self.w3(F.silu(gate) * value)
        return projected


def modulation(width: int, parts: int) -> nn.Sequential:
    """Return the adaptive-LayerNorm head: condition (..., D) -> (..., parts * D)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


class Block(nn.Module):
    """Attention and MLP, each normalised, modulated by the condition and gated."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.norm2 = RMSNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = SwiGLU(width, mlp_ratio)
        self.adaLN_modulation = modulation(width, 6)

    def forward(self, x: Tensor, condition: Tensor, rope: RotaryPositions) -> Tensor:
        """Tokens (B, N, D), condition (B, 1 or N, D) -> (B, N, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x, shift1, scale1), rope)
        result: Tensor = x + gate2 * self.mlp(self.norm2(x, shift2, scale2))
        return result

    def attention_weights(self, x: Tensor, condition: Tensor, rope: RotaryPositions) -> Tensor:
        """Attention weights (B, h, N, N) of :meth:`forward` with the same arguments."""
        shift, scale = self.adaLN_modulation(condition).chunk(6, dim=-1)[:2]
        return self.attn.weights(self.norm1(x, shift, scale), rope)


def run_blocks(blocks: Iterable[Block], x: Tensor, condition: Tensor, rope: RotaryPositions) -> Tensor:
    """Pass tokens (B, N, D) through ``blocks`` one after the other; condition (B, 1 or N, D)."""
    for block in blocks:
        x = block(x, condition, rope)
    return x


Run = Callable[[list[Any], Tensor, Tensor, RotaryPositions], Tensor]
"""A way to run blocks: the arguments and the result of :func:`run_blocks`."""


class FinalLayer(nn.Module):
    """Modulated projection of tokens to latent channels."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(width)
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = modulation(width, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, N, D), condition (B, 1 or N, D) -> (B, N, C)."""
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=-1)
        projected: Tensor = self.linear(self.norm_final(x, shift, scale))
        return projected


class LatentEmbedder(nn.Module):
    """Turns each latent position into a token."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, N, D)."""
        # The convolution as a matmul, which leaves tokens as all further layers read them.
        tokens = F.linear(x.flatten(2).transpose(1, 2), self.proj.weight.flatten(1), self.proj.bias)
        # The residual stream begins here; float16 has too short a range for it.
        return tokens.float() if tokens.dtype == torch.float16 else tokens


def to_grid(tokens: Tensor, grid: int) -> Tensor:
    """Tokens (B, N, C) -> latent (B, C, S, S)."""
    return tokens.transpose(1, 2).view(len(tokens), -1, grid, grid)


class TimestepEmbedder(nn.Module):
    """Gaussian Fourier features of t, then an MLP. The frequencies are parameters: the release trains them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(TIME_FREQUENCIES))
        self.mlp = nn.Sequential(nn.Linear(2 * TIME_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, D)."""
        angles = t[:, None] * self.W * (2 * math.pi)
        embedded: Tensor = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return embedded


class LabelEmbedder(nn.Module):
    """A vector per class and, where labels are dropped in training, one for the null label (the last)."""

    def __init__(self, classes: int, width: int, null: bool) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + null, width)

    def forward(self, labels: Tensor) -> Tensor:
        """(B,) int64 -> (B, D)."""
        embedded: Tensor = self.embedding_table(labels)
        return embedded


def initialise(model: nn.Module, linear: Literal["xavier", "default"]) -> None:
    """Set initial weights in place: every block is the identity and the output zero.

    ``linear`` is what Linear layers start from: Xavier-uniform with zero bias (the release's LightningDiT), or
    PyTorch's default (the release's DiT-DH, whose Xavier step is switched off).
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and linear == "xavier":
            nn.init.xavier_uniform_(layer.weight)
            _zero(layer.bias)
    # Now the exceptions among the layers above.
    for layer in model.modules():
        if isinstance(layer, LatentEmbedder):
            nn.init.xavier_uniform_(layer.proj.weight.flatten(1))
            _zero(layer.proj.bias)
        elif isinstance(layer, LabelEmbedder):
            nn.init.normal_(layer.embedding_table.weight, std=NARROW)
        elif isinstance(layer, TimestepEmbedder):
            for part in layer.mlp:
                if isinstance(part, nn.Linear):
                    nn.init.normal_(part.weight, std=NARROW)
        elif isinstance(layer, Block):
            _zero(*layer.adaLN_modulation.parameters())
        elif isinstance(layer, FinalLayer):
            _zero(*layer.adaLN_modulation.parameters(), *layer.linear.parameters())


def _zero(*tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None:
            nn.init.zeros_(tensor)
