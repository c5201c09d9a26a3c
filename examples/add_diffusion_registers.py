"""Add diffusion registers to a DiT that is not ours: the original one, written out small.

Run: python examples/add_diffusion_registers.py
"""

from __future__ import annotations

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from dsr.registers import add_diffusion_registers

WIDTH, DEPTH, HEADS, GRID, CHANNELS, CLASSES = 64, 6, 4, 8, 4, 10


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


class DiT(nn.Module):
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


def main() -> None:
    """Add registers, and train for a few steps on one batch to see that they learn with the rest."""
    torch.manual_seed(0)
    dit = DiT()
    plain = {name: value.clone() for name, value in dit.state_dict().items()}
    # The paper has 36 before block 8 of 28.
    add_diffusion_registers(dit, dit.blocks, start=2, count=16, width=WIDTH)
    added = {name: tuple(value.shape) for name, value in dit.state_dict().items() if name not in plain}
    print(f"added: {added}")
    dit.load_state_dict(plain)
    print("a checkpoint without registers still loads")

    clean, noise = torch.randn(2, 16, CHANNELS, GRID, GRID).unbind()
    t, labels = torch.rand(16), torch.arange(16) % CLASSES
    noisy = torch.lerp(clean, noise, t.view(-1, 1, 1, 1))
    start = dit.diffusion_registers.tokens.detach().clone()
    optimizer = torch.optim.AdamW(dit.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        loss = F.mse_loss(dit(noisy, t, labels), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"prediction {tuple(dit(noisy, t, labels).shape)}, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    moved = (dit.diffusion_registers.tokens - start).norm() / start.norm()
    print(f"registers moved by {moved:.1%} of their norm")


if __name__ == "__main__":
    main()
