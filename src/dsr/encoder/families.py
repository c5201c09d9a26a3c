"""The families of frozen encoders: the SigLIP2 vision tower and DINOv2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from dsr.base.errors import UserError
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
        blocks = []
        for layer in tower.encoder.layers:
            source = layer.self_attn
            attention = Attention(source.q_proj, source.k_proj, source.v_proj, source.out_proj, source.num_heads)
            mlp = Mlp(layer.mlp.fc1, layer.mlp.activation_fn, layer.mlp.fc2)
            blocks.append(Block(layer.layer_norm1, attention, layer.layer_norm2, mlp))
        return cls(tower.embeddings, blocks, **options)

    def tokenise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Standardised pixels (B, 3, H, W) -> image tokens with positions (B, N, D); the table is resized, bicubic."""
        # The convolution as a matmul over patches, several times faster on GPUs.
        projection, size = self.embeddings.patch_embedding, self.patch_size
        patches = pixels.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5)
        tokens = F.linear(patches.flatten(3).flatten(1, 2), projection.weight.flatten(1), projection.bias)
        positions: torch.Tensor = self.embeddings.interpolate_pos_encoding(tokens, *pixels.shape[-2:])
        return tokens + positions


class Dinov2Encoder(VitEncoder):
    """A DINOv2 model, with or without trained registers (the method's first flavour of encoder registers).

    The trained final LayerNorm is left out; CLS and trained registers are dropped from the output.
    """

    PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    @classmethod
    def read_vision_model(cls, folder: Path) -> Any:
        """Load either kind of model; SwiGLU MLPs (the giant models) and projections without biases are refused."""
        from transformers import AutoConfig, AutoModel  # takes seconds, and only loading needs it

        read_model_type(folder, ("dinov2", "dinov2_with_registers"))
        config = AutoConfig.from_pretrained(folder)
        for key, expected in (("use_swiglu_ffn", False), ("qkv_bias", True)):
            if getattr(config, key) is not expected:
                raise UserError(f"{folder / 'config.json'}: {key} is {not expected}, only {expected} is supported")
        # Neither the trained final LayerNorm nor the token of masked patches is used.
        return load_model(folder, AutoModel, config, unused=["layernorm", "mask_token"])

    @classmethod
    def from_vision_model(cls, model: Any, **options: Any) -> Dinov2Encoder:
        """Wrap a transformers ``Dinov2Model`` or ``Dinov2WithRegistersModel``, sharing its weights."""
        blocks = []
        for layer in model.encoder.layer:
            source, output = layer.attention.attention, layer.attention.output.dense
            attention = Attention(source.query, source.key, source.value, output, source.num_attention_heads)
            mlp = Mlp(layer.mlp.fc1, layer.mlp.activation, layer.mlp.fc2)
            scales = {"scale1": layer.layer_scale1, "scale2": layer.layer_scale2}
            blocks.append(Block(layer.norm1, attention, layer.norm2, mlp, **scales))
        return cls(model.embeddings, blocks, **options)

    @property
    def prefix(self) -> int:
        """CLS and trained registers."""
        return 1 + getattr(self.embeddings.config, "num_register_tokens", 0)


FAMILIES: Mapping[str, type[VitEncoder]] = {"siglip2": Siglip2Encoder, "dinov2": Dinov2Encoder}
"""By `encoders.*.family`. To add one: a class here, and its name in `dsr.config.encoders.Encoder.family`."""
