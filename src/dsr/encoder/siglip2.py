"""The frozen SigLIP2 vision tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from dsr.encoder.blocks import Attention, Block, Mlp
from dsr.encoder.vit import VitEncoder, load_model, read_model_type


class Siglip2Encoder(VitEncoder):
    """A SigLIP2 vision tower without its trained final LayerNorm and pooling head; all its tokens are image tokens."""

    PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)

    @classmethod
    def read_vision_model(cls, folder: Path) -> Any:
        """Load the vision tower from a checkpoint that may hold the text tower too."""
        from transformers import SiglipVisionConfig, SiglipVisionModel  # takes seconds, and only loading needs it

        read_model_type(folder, ("siglip", "siglip_vision_model"))
        config = SiglipVisionConfig.from_pretrained(folder)
        config.vision_use_head = False
        # The trained final LayerNorm is not used.
        return load_model(folder, SiglipVisionModel, config, unused=["post_layernorm"])

    @classmethod
    def from_vision_model(cls, model: Any, **options: Any) -> Siglip2Encoder:
        """Wrap a transformers ``SiglipVisionModel``, sharing its weights."""
        tower = getattr(model, "vision_model", model)
        return cls(tower.embeddings, [_block(layer) for layer in tower.encoder.layers], **options)

    def tokenise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Standardised pixels (B, 3, H, W) -> image tokens with positions (B, N, D); the table is resized, bicubic."""
        # The convolution as a matmul over patches, several times faster on GPUs.
        projection = self.embeddings.patch_embedding
        tokens = F.linear(_patches(pixels, self.patch_size), projection.weight.flatten(1), projection.bias)
        positions: torch.Tensor = self.embeddings.interpolate_pos_encoding(tokens, *pixels.shape[-2:])
        return tokens + positions


def _patches(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Cut images (B, 3, H, W) into patches (B, N, 3 size²), row-major; an incomplete border is left out."""
    rows, columns = (side // size for side in pixels.shape[-2:])
    whole = pixels[..., : rows * size, : columns * size]
    cut = whole.reshape(*whole.shape[:2], rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(len(pixels), rows * columns, -1)


def _block(layer: Any) -> Block:
    source = layer.self_attn
    attention = Attention(source.q_proj, source.k_proj, source.v_proj, source.out_proj, source.num_heads)
    mlp = Mlp(layer.mlp.fc1, layer.mlp.activation_fn, layer.mlp.fc2)
    return Block(layer.layer_norm1, attention, layer.layer_norm2, mlp)
