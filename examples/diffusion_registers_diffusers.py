"""Add diffusion registers to the DiT of diffusers, with and without gradient checkpointing.

Run: python examples/diffusion_registers_diffusers.py (needs `pip install diffusers`)
"""

from __future__ import annotations

import torch
from diffusers import DiTTransformer2DModel

from dsr.registers import add_diffusion_registers


def main() -> None:
    """Make a small model, add registers, and compare its gradients with those under gradient checkpointing."""
    torch.manual_seed(0)
    # A real one: DiTTransformer2DModel.from_pretrained("facebook/DiT-XL-2-256", subfolder="transformer")
    dit = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=4, num_layers=4, sample_size=8, patch_size=2,
        num_embeds_ada_norm=10, dropout=0.0,
    ).eval()  # fmt: skip
    add_diffusion_registers(dit, dit.transformer_blocks, start=1, count=4, width=dit.inner_dim)

    images, t, labels = torch.randn(2, 4, 8, 8), torch.tensor([10, 500]), torch.tensor([1, 2])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            dit.enable_gradient_checkpointing()
        dit.zero_grad()
        prediction = dit(images, timestep=t, class_labels=labels).sample
        prediction.square().sum().backward()
        gradients.append(dit.diffusion_registers.tokens.grad.clone())
    print(f"prediction {tuple(prediction.shape)}; gradient of the registers {gradients[0].norm():.3g}")
    print(f"the same with gradient checkpointing: {torch.allclose(*gradients)}")


if __name__ == "__main__":
    main()
