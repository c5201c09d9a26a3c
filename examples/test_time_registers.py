"""Find the register neurons of a ViT and give it a test-time register, without training.

Run: python examples/test_time_registers.py timm|clip

The models here are tiny and random, and one of their neurons is rewired to make outlier tokens, so that the result can
be checked. Real ones: `timm.create_model("vit_large_patch14_clip_224.openai", pretrained=True)`,
`transformers.CLIPVisionModel.from_pretrained("openai/clip-vit-large-patch14")`, and your images.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dsr.registers import Layout, add_test_time_registers, find_register_neurons, token_norms

LAYER, NEURON = 2, 11
"""Where the demonstration plants its outliers."""


def timm_vit() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return a ViT of timm, and what computes its features (B, T, D)."""
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(img_size=64, patch_size=8, embed_dim=48, depth=5, num_heads=4, num_classes=0).eval()
    return vit, vit.forward_features


def clip_tower() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return the image tower of a CLIP of transformers, and what computes its features (B, T, D)."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=48, intermediate_size=192, num_hidden_layers=5, num_attention_heads=4, image_size=64, patch_size=8
    )
    clip = CLIPVisionModel(config).eval()
    return clip, lambda images: clip(images).last_hidden_state


def plant(vit: nn.Module) -> None:
    """Rewire one neuron, so that it fires strongly on some patches and writes a large vector."""
    mlp = Layout.of(vit).blocks[LAYER].mlp
    width = mlp.fc1.in_features
    direction = torch.randn(width)
    mlp.fc1.weight[NEURON] = 40 * direction / direction.norm()
    mlp.fc1.bias[NEURON] = -60
    mlp.fc2.weight[:, NEURON] = torch.randn(width) / width**0.5


@torch.no_grad()
def main() -> None:
    """Discover the planted neuron, add a register, and show what becomes of the outliers."""
    torch.manual_seed(0)
    vit, features = {"timm": timm_vit, "clip": clip_tower}[sys.argv[1]]()
    plant(vit)
    images = torch.randn(8, 3, 64, 64)
    before, shape = token_norms(vit, images)[-1], features(images).shape
    threshold = 3 * before.median().item()
    print(f"before: {(before > threshold).sum()} of {before.numel()} patches have norms above {threshold:.1f}")

    neurons = find_register_neurons(vit, [images], norm_threshold=threshold, top_k=1)
    print(f"found: {neurons}")
    add_test_time_registers(vit, neurons)

    after = token_norms(vit, images)[-1]
    usual = (before <= threshold) & (after <= threshold)
    change = ((after - before)[usual].abs() / before[usual]).median()
    print(f"after: {(after > threshold).sum()} of {after.numel()}; the others' norms change by {change:.1%} (median)")
    print(f"features {tuple(shape)}, as before: {features(images).shape == shape}")


if __name__ == "__main__":
    main()
