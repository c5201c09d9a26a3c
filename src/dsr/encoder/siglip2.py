"""SigLIP2's vision tower. transformers has it too, but takes seconds to import, in every job that encodes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional as F

from dsr.base.errors import UserError, first_problem
from dsr.base.tensors import Blank
from dsr.encoder.blocks import Attention, Block, Mlp
from dsr.encoder.vit import VitEncoder, read_model_type, read_settings, refuse_missing, resize

PREFIX = "vision_model."
NAMES = {"blocks.": "encoder.layers.", ".norm": ".layer_norm", ".attention.": ".self_attn."}
"""Parts of our names of weights, and what they are in published files, after PREFIX."""


class Shape(BaseModel):
    """What a folder's config.json says of the vision tower; what it leaves out is as in the first SigLIP."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 16
    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6


class Embeddings(nn.Module):
    """Weights of the patches' projection and the table of positions."""

    def __init__(self, config: Shape) -> None:
        super().__init__()
        self.config, self.patch_size = config, config.patch_size
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, self.patch_size, stride=self.patch_size)
        self.position_embedding = nn.Embedding((config.image_size // self.patch_size) ** 2, config.hidden_size)


class Siglip2Encoder(VitEncoder):
    """A SigLIP2 vision tower without its trained final LayerNorm and pooling head; all its tokens are image tokens.

    It has no weights until it is given some.
    """

    PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)

    def __init__(self, shape: Shape, **options: Any) -> None:
        with Blank():
            embeddings, blocks = Embeddings(shape), [_block(shape) for _ in range(shape.num_hidden_layers)]
        super().__init__(embeddings, blocks, **options)

    @classmethod
    def read(cls, folder: Path, **options: Any) -> "Siglip2Encoder":
        """Load the vision tower from a checkpoint that may hold the text tower too."""
        read_model_type(folder, ("siglip", "siglip_vision_model"))
        settings = read_settings(folder, "config.json")
        try:
            encoder = cls(Shape.model_validate(settings.get("vision_config", settings)), **options)
            with safe_open(folder / "model.safetensors", "pt") as file:
                every = list(file.keys())
                # Where the tower is alone, transformers 5 leaves the prefix out.
                names = [name for name in every if name.startswith(PREFIX)] or every
                weights = {PREFIX + name.removeprefix(PREFIX): file.get_tensor(name) for name in names}
        except ValidationError as error:
            raise UserError(f"{folder / 'config.json'}: {first_problem(error)}; it is another model") from None
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder}: the weights cannot be read ({error}); download the encoder again") from None
        encoder.take(weights, folder)
        return encoder

    def take(self, weights: Mapping[str, torch.Tensor], source: Path) -> None:
        """Copy published weights, in float32; there may be more of them.

        Raises:
            UserError: if some are missing or misshapen.
        """
        own = {_published(name): (name, parameter.shape) for name, parameter in self.named_parameters()}
        refuse_missing(
            source, [key for key, (_, shape) in own.items() if key not in weights or weights[key].shape != shape]
        )
        copies = {name: weights[key].to(torch.float32, copy=True) for key, (name, _) in own.items()}
        self.load_state_dict(copies, assign=True)

    def tokenise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Standardised pixels (B, 3, H, H) -> image tokens with positions (B, N, D); the table is resized, bicubic."""
        # The convolution as a matmul over patches, several times faster on GPUs.
        projection, size = self.embeddings.patch_embedding, self.patch_size
        patches = pixels.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5)
        tokens = F.linear(patches.flatten(3).flatten(1, 2), projection.weight.flatten(1), projection.bias)
        table = self.embeddings.position_embedding.weight
        side = math.isqrt(len(table))
        positions = resize(table.view(1, side, side, -1).permute(0, 3, 1, 2), pixels.shape[-1] // size)
        return tokens + positions.permute(0, 2, 3, 1).flatten(1, 2)


def _block(shape: Shape) -> Block:
    width, hidden = shape.hidden_size, shape.intermediate_size
    norm1, norm2 = (nn.LayerNorm(width, eps=shape.layer_norm_eps) for _ in range(2))
    query, key, value, output = (nn.Linear(width, width) for _ in range(4))
    mlp = Mlp(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))
    return Block(norm1, Attention(query, key, value, output, shape.num_attention_heads), norm2, mlp)


def _published(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return PREFIX + name
