"""The frozen SigLIP2 vision tower, walked block by block."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F
from transformers import SiglipVisionConfig, SiglipVisionModel

from dsr.encoder.attention import Attention
from dsr.encoder.blocks import Block, Mlp, Trace
from dsr.errors import UserError
from dsr.files import read_json

log = logging.getLogger(__name__)

NORM_EPS = 1e-6
"""Epsilon of the final LayerNorm, which has no weight and no bias: every token leaves with norm sqrt(D)."""

PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)
"""What every published SigLIP2 processor subtracts from and divides pixels in [0, 1] by."""


class Siglip2Encoder(nn.Module):
    """A SigLIP2 vision tower without its trained final LayerNorm and pooling head; frozen.

    Args:
        embeddings: the transformers module that turns pixels into tokens with positions.
        blocks: the transformer blocks.
        input_size: side in pixels of the images that :meth:`preprocess` makes.
        pixel_mean: per channel, subtracted from pixels in [0, 1].
        pixel_std: per channel, divided by after that.
        registers: zero tokens appended after the embeddings and removed from the output.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self,
        embeddings: nn.Module,
        blocks: Iterable[Block],
        *,
        input_size: int,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
        registers: int = 0,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        # A ModuleList that type checkers know the members of.
        self.blocks = cast(list[Block], nn.ModuleList(blocks))
        self.input_size = input_size
        self.registers = registers
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, folder: Path, input_size: int) -> Siglip2Encoder:
        """Load the vision tower of a Hugging Face folder (config, weights, processor), in float32.

        Raises:
            UserError: if a file is missing or the weights are not those of the configured vision tower.
        """
        processor = _read(folder, "preprocessor_config.json")
        missing = [key for key in ("image_mean", "image_std") if key not in processor]
        if missing:
            raise UserError(f"{folder / 'preprocessor_config.json'}: {', '.join(missing)} missing; download it again")
        return cls.from_vision_model(
            _load_vision_model(folder),
            input_size=input_size,
            pixel_mean=processor["image_mean"],
            pixel_std=processor["image_std"],
        )

    @classmethod
    def from_vision_model(
        cls,
        model: Any,
        *,
        input_size: int,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> Siglip2Encoder:
        """Wrap a transformers ``SiglipVisionModel``, sharing its weights."""
        tower = getattr(model, "vision_model", model)
        return cls(
            tower.embeddings,
            [_block(layer) for layer in tower.encoder.layers],
            input_size=input_size,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    @property
    def width(self) -> int:
        """Width D of a token."""
        return int(self.embeddings.position_embedding.embedding_dim)  # type: ignore[union-attr,arg-type]

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.embeddings.patch_size)  # type: ignore[arg-type]

    def preprocess(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize pixels (B, 3, H, W) in [0, 1] to the input size, then standardise them.

        The bicubic resize may leave [0, 1]; nothing is clamped, as in the release.
        """
        return (resize(pixels, self.input_size) - self.pixel_mean) / self.pixel_std

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the stream before the first block: standardised pixels (B, 3, H, W) -> (B, N + registers, D).

        The position table is resized (bicubic) where the image has another number of patches.
        """
        tokens: torch.Tensor = self.embeddings(pixels, interpolate_pos_encoding=True)
        return F.pad(tokens, (0, 0, 0, self.registers))

    def pre_norm(self, pixels: torch.Tensor) -> torch.Tensor:
        """Image tokens (B, N, D) after the last block, before the final LayerNorm."""
        x = self.embed(pixels)
        for block in self.blocks:
            x = block(x)
        return x[:, : x.shape[1] - self.registers]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of standardised pixels: (B, 3, H, W) -> image tokens (B, N, D) in row-major order."""
        x = self.pre_norm(pixels)
        return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)

    def trace(self, pixels: torch.Tensor) -> Trace:
        """Run standardised pixels through all blocks, keeping every stream and every MLP's activations."""
        trace = Trace([self.embed(pixels)], [])
        for block in self.blocks:
            output, activations = block.trace(trace.hidden_states[-1])
            trace.hidden_states.append(output)
            trace.activations.append(activations)
        return trace


def resize(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Resize images (B, 3, H, W) to (B, 3, size, size), bicubic without antialiasing; equal sizes pass unchanged."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    resized: torch.Tensor = F.interpolate(pixels, size=(size, size), mode="bicubic", align_corners=False)
    return resized


def _block(layer: Any) -> Block:
    source = layer.self_attn
    attention = Attention(source.q_proj, source.k_proj, source.v_proj, source.out_proj, source.num_heads)
    mlp = Mlp(layer.mlp.fc1, layer.mlp.activation_fn, layer.mlp.fc2)
    return Block(layer.layer_norm1, attention, layer.layer_norm2, mlp)


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a Hugging Face model folder (download the encoder again)")
    content: dict[str, Any] = read_json(path)
    return content


def _load_vision_model(folder: Path) -> Any:
    """Load the vision tower from a checkpoint that may hold the text tower too."""
    kind = _read(folder, "config.json").get("model_type")
    if kind not in ("siglip", "siglip_vision_model"):
        raise UserError(f"{folder / 'config.json'}: model_type is '{kind}', expected 'siglip' or 'siglip_vision_model'")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: no *.safetensors weights; download the encoder again")
    config = SiglipVisionConfig.from_pretrained(folder)
    config.vision_use_head = False
    try:
        model, report = SiglipVisionModel.from_pretrained(
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
    # The trained final LayerNorm is not used, so a checkpoint may lack it.
    wrong = sorted(key for key in {*report["missing_keys"], *reshaped} if "post_layernorm" not in key)
    if wrong:
        raise UserError(
            f"{folder}: {len(wrong)} vision weights are missing or of another shape than config.json says "
            f"({', '.join(wrong[:3])}, ...); download the encoder again"
        )
    log.info("Loaded %s: %d unused tensors (text tower, pooling head)", folder, len(report["unexpected_keys"]))
    return model.float()
