"""Add diffusion registers to a DiT that is not ours: one made of timm's attention and MLP, as the original DiT is.

Run: python examples/add_diffusion_registers.py
"""

from __future__ import annotations

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from dsr.denoiser import registers

WIDTH, DEPTH, HEADS, GRID, CHANNELS, CLASSES = 64, 6, 4, 8, 4, 10
REGISTERS, START = 16, 2
"""Registers enter before block START; the paper has 36 before block 8 of 28."""


# The model that gets them. Nothing in it knows of registers.


class Block(nn.Module):
    """A DiT block with adaptive LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.attn = Attention(WIDTH, HEADS, qkv_bias=True)
        self.mlp = Mlp(WIDTH, 4 * WIDTH)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, T, D), condition (B, 1, D) -> (B, T, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class TimmDiT(nn.Module):
    """A small class-conditional DiT; predicts the clean latent."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(1, GRID**2, WIDTH))
        self.time = nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.label = nn.Embedding(CLASSES, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.final_layer = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CHANNELS))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Noisy latents (B, C, S, S), times (B,), labels (B,) -> clean latents (B, C, S, S)."""
        condition = (self.time(t[:, None]) + self.label(y)).unsqueeze(1)
        tokens = self.embed(x.flatten(2).transpose(1, 2)) + self.positions
        for block in self.blocks:
            tokens = block(tokens, condition)
        return self.final_layer(tokens).transpose(1, 2).unflatten(2, (GRID, GRID))


# The few lines.


def add_registers(dit: TimmDiT) -> None:
    """Let registers enter before block START and leave before the final layer."""
    dit.blocks[START] = registers.Entry(dit.blocks[START], count=REGISTERS, width=WIDTH)
    dit.final_layer = registers.Exit(dit.final_layer, count=REGISTERS)


def count(model: nn.Module) -> int:
    """Trainable numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Add registers, and train for a few steps on one batch to see that they learn with the rest."""
    torch.manual_seed(0)
    dit = TimmDiT()
    before = count(dit)
    add_registers(dit)
    print(f"{before} parameters, and {count(dit) - before} more for {REGISTERS} registers before block {START}")

    clean, noise = torch.randn(2, 16, CHANNELS, GRID, GRID).unbind()
    t, labels = torch.rand(16), torch.arange(16) % CLASSES
    noisy = torch.lerp(clean, noise, t.view(-1, 1, 1, 1))
    entry = dit.blocks[START]
    start = entry.tokens.detach().clone()
    optimizer = torch.optim.AdamW(dit.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        loss = F.mse_loss(dit(noisy, t, labels), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"prediction {tuple(dit(noisy, t, labels).shape)}, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    print(f"registers moved by {(entry.tokens - start).norm() / start.norm():.1%} of their norm")


if __name__ == "__main__":
    main()
