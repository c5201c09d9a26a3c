"""The frozen DINOv2 encoder, with or without trained registers (the method's first flavour of encoder registers)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dsr.base.errors import UserError
from dsr.encoder.blocks import Attention, Block, Mlp
from dsr.encoder.vit import VitEncoder, load_model, read_model_type

ARCHITECTURES = {
    "dinov2": ("Dinov2Config", "Dinov2Model"),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel"),
}
"""Classes of configuration and model in transformers, by what config.json calls the architecture."""


class Dinov2Encoder(VitEncoder):
    """A DINOv2 model without its trained final LayerNorm; CLS and trained registers are dropped from the output."""

    PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    @classmethod
    def read_vision_model(cls, folder: Path) -> Any:
        """Load either kind of model; SwiGLU MLPs (the giant models) and projections without biases are refused."""
        import transformers  # takes seconds, and only loading needs it

        names = ARCHITECTURES[read_model_type(folder, ARCHITECTURES)]
        configuration, architecture = (getattr(transformers, name) for name in names)
        config = configuration.from_pretrained(folder)
        for key, expected in (("use_swiglu_ffn", False), ("qkv_bias", True)):
            if getattr(config, key) is not expected:
                raise UserError(f"{folder / 'config.json'}: {key} is {not expected}, only {expected} is supported")
        # Neither the trained final LayerNorm nor the token of masked patches is used.
        return load_model(folder, architecture, config, unused=["layernorm", "mask_token"])

    @classmethod
    def from_vision_model(cls, model: Any, **options: Any) -> Dinov2Encoder:
        """Wrap a transformers ``Dinov2Model`` or ``Dinov2WithRegistersModel``, sharing its weights."""
        return cls(model.embeddings, [_block(layer) for layer in model.encoder.layer], **options)

    @property
    def prefix(self) -> int:
        """CLS and trained registers."""
        return 1 + getattr(self.embeddings.config, "num_register_tokens", 0)


def _block(layer: Any) -> Block:
    source = layer.attention.attention
    attention = Attention(
        source.query, source.key, source.value, layer.attention.output.dense, source.num_attention_heads
    )
    mlp = Mlp(layer.mlp.fc1, layer.mlp.activation, layer.mlp.fc2)
    return Block(layer.norm1, attention, layer.norm2, mlp, scale1=layer.layer_scale1, scale2=layer.layer_scale2)
