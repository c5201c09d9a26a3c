"""The frozen DINOv2 encoder, with or without trained registers (the method's first flavour of encoder registers)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dsr.base.errors import UserError
from dsr.encoder import folders
from dsr.encoder.attention import Attention
from dsr.encoder.blocks import Block, Mlp
from dsr.encoder.vit import VitEncoder

PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What every published DINOv2 processor subtracts from and divides pixels in [0, 1] by."""

ARCHITECTURES = {
    "dinov2": ("Dinov2Config", "Dinov2Model"),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel"),
}
"""Classes of configuration and model in transformers, by what config.json calls the architecture."""


class Dinov2Encoder(VitEncoder):
    """A DINOv2 model without its trained final LayerNorm; CLS and trained registers are dropped from the output."""

    @classmethod
    def read_vision_model(cls, folder: Path) -> Any:
        """Load either kind of model; SwiGLU MLPs (the giant models) and projections without biases are refused."""
        import transformers  # takes seconds, and only loading needs it

        names = ARCHITECTURES[folders.read_model_type(folder, ARCHITECTURES)]
        configuration, architecture = (getattr(transformers, name) for name in names)
        config = configuration.from_pretrained(folder)
        for key, expected in (("use_swiglu_ffn", False), ("qkv_bias", True)):
            if getattr(config, key) is not expected:
                raise UserError(f"{folder / 'config.json'}: {key} is {not expected}, only {expected} is supported")
        # Neither the trained final LayerNorm nor the token of masked patches is used.
        return folders.load_model(folder, architecture, config, unused=["layernorm", "mask_token"])

    @classmethod
    def from_vision_model(
        cls,
        model: Any,
        *,
        input_size: int,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> Dinov2Encoder:
        """Wrap a transformers ``Dinov2Model`` or ``Dinov2WithRegistersModel``, sharing its weights."""
        return cls(
            model.embeddings,
            [_block(layer) for layer in model.encoder.layer],
            input_size=input_size,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    @property
    def width(self) -> int:
        """Width D of a token."""
        return int(self.embeddings.config.hidden_size)  # type: ignore[union-attr,arg-type]

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.embeddings.patch_size)  # type: ignore[arg-type]

    @property
    def prefix(self) -> int:
        """CLS and trained registers."""
        return 1 + getattr(self.embeddings.config, "num_register_tokens", 0)

    def tokenise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Standardised pixels (B, 3, H, W) -> CLS, trained registers, image tokens with positions (B, prefix + N, D).

        The position table is resized where the image has another number of patches: bicubic, antialiased in the model
        with registers only, as each was published.
        """
        tokens: torch.Tensor = self.embeddings(pixels)
        return tokens


def _block(layer: Any) -> Block:
    source = layer.attention.attention
    attention = Attention(
        source.query, source.key, source.value, layer.attention.output.dense, source.num_attention_heads
    )
    mlp = Mlp(layer.mlp.fc1, layer.mlp.activation, layer.mlp.fc2)
    return Block(layer.norm1, attention, layer.norm2, mlp, scale1=layer.layer_scale1, scale2=layer.layer_scale2)
