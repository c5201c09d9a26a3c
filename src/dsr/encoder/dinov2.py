"""DINOv2, with and without trained registers, as transformers loads it."""

import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dsr.base.errors import UserError
from dsr.encoder.blocks import Attention, Block, Mlp
from dsr.encoder.vit import VitEncoder, read_model_type, refuse_missing


class Dinov2Encoder(VitEncoder):
    """A DINOv2 model, with or without trained registers (the method's first flavour of encoder registers).

    The trained final LayerNorm is left out; CLS and trained registers are dropped from the output.
    """

    PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    @classmethod
    def read(cls, folder: Path, **options: Any) -> "Dinov2Encoder":
        """Load either kind of model; SwiGLU MLPs (the giant models) and projections without biases are refused."""
        from transformers import AutoConfig, AutoModel  # takes seconds, and only loading needs it

        read_model_type(folder, ("dinov2", "dinov2_with_registers"))
        config = AutoConfig.from_pretrained(folder)
        for key, expected in (("use_swiglu_ffn", False), ("qkv_bias", True)):
            if getattr(config, key) is not expected:
                raise UserError(f"{folder / 'config.json'}: {key} is {not expected}, only {expected} is supported")
        try:
            model, report = AutoModel.from_pretrained(
                folder,
                config=config,
                attn_implementation="sdpa",
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder}: the weights cannot be read ({error}); download the encoder again") from None
        # Versions of transformers report a key of another shape as the key, or as (key, shape, shape).
        reshaped = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
        # Neither the trained final LayerNorm nor the token of masked patches is used.
        used = [key for key in {*report["missing_keys"], *reshaped} if not re.search("layernorm|mask_token", key)]
        refuse_missing(folder, used)
        return cls.from_vision_model(model.float(), **options)

    @classmethod
    def from_vision_model(cls, model: Any, **options: Any) -> "Dinov2Encoder":
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
