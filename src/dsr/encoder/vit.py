"""Frozen image encoders: pre-norm ViTs from Hugging Face folders, walked block by block; SigLIP2 and DINOv2."""

from __future__ import annotations

import abc
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F

from dsr.base.errors import UserError
from dsr.base.files import read_json
from dsr.encoder.blocks import Attention, Block, Mlp
from dsr.registers.discovery import Trace

log = logging.getLogger(__name__)

NORM_EPS = 1e-6
"""Epsilon of the final LayerNorm, which has no weight and no bias: every token leaves with norm sqrt(D)."""

Encoder = TypeVar("Encoder", bound="VitEncoder")


class VitEncoder(nn.Module, abc.ABC):
    """A vision transformer without its trained final LayerNorm and its heads; frozen.

    The T tokens of a stream are ``prefix`` tokens of the model's own (CLS, trained registers), the image tokens in
    row-major order, and ``registers`` test-time registers.

    Args:
        embeddings: of transformers; turns standardised pixels into prefix and image tokens with positions.
        blocks: the transformer blocks.
        input_size: side in pixels of the images that :meth:`preprocess` makes.
        pixel_mean: per channel, subtracted from pixels in [0, 1]; the family's published values unless given.
        pixel_std: per channel, divided by after that.
    """

    PIXEL_MEAN: ClassVar[Sequence[float]]
    PIXEL_STD: ClassVar[Sequence[float]]
    """What every published processor of the family subtracts from and divides pixels in [0, 1] by."""
    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self,
        embeddings: Any,
        blocks: Iterable[Block],
        *,
        input_size: int,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.width, self.patch_size = int(embeddings.config.hidden_size), int(embeddings.patch_size)
        # A ModuleList that type checkers know the members of.
        self.blocks = cast(list[Block], nn.ModuleList(blocks))
        self.input_size = input_size
        self.registers = 0
        """Zero tokens appended after the embeddings and removed from the output (`dsr.encoder.ttr`)."""
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean or self.PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std or self.PIXEL_STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls: type[Encoder], folder: Path, input_size: int) -> Encoder:
        """Load the vision model of a Hugging Face folder (config, weights, processor), in float32.

        Raises:
            UserError: if a file is missing or lacks something, or the weights are not those of the configured model.
        """
        processor = _read(folder, "preprocessor_config.json")
        missing = [key for key in ("image_mean", "image_std") if key not in processor]
        if missing:
            raise UserError(f"{folder / 'preprocessor_config.json'}: {', '.join(missing)} missing; download it again")
        scale = {"pixel_mean": processor["image_mean"], "pixel_std": processor["image_std"]}
        return cls.from_vision_model(cls.read_vision_model(folder), input_size=input_size, **scale)

    @classmethod
    @abc.abstractmethod
    def read_vision_model(cls, folder: Path) -> Any:
        """Return the transformers model in a Hugging Face folder, float32."""

    @classmethod
    @abc.abstractmethod
    def from_vision_model(cls: type[Encoder], model: Any, **options: Any) -> Encoder:
        """Wrap a transformers model, sharing its weights; ``options`` are arguments of the class."""

    @property
    def prefix(self) -> int:
        """Tokens of the model's own before the image tokens."""
        return 0

    def image_tokens(self, count: int) -> slice:
        """Which of ``count`` tokens of a stream are image tokens."""
        return slice(self.prefix, count - self.registers)

    def preprocess(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize pixels (B, 3, H, W) in [0, 1] to the input size, then standardise them.

        The bicubic resize may leave [0, 1]; nothing is clamped, as in the release.
        """
        return (resize(pixels, self.input_size) - self.pixel_mean) / self.pixel_std

    def tokenise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Standardised pixels (B, 3, H, W) -> prefix and image tokens with positions (B, prefix + N, D).

        The position table is resized, as the model was published, where the image has another number of patches.
        """
        tokens: torch.Tensor = self.embeddings(pixels)
        return tokens

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the stream before the first block: standardised pixels (B, 3, H, W) -> (B, T, D)."""
        return F.pad(self.tokenise(pixels), (0, 0, 0, self.registers))

    def pre_norm(self, pixels: torch.Tensor) -> torch.Tensor:
        """Image tokens (B, N, D) after the last block, before the final LayerNorm."""
        x = self.embed(pixels)
        for block in self.blocks:
            x = block(x)
        return x[:, self.image_tokens(x.shape[1])]

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


def read_model_type(folder: Path, expected: Collection[str]) -> str:
    """Return the architecture that config.json names, one of ``expected``.

    Raises:
        UserError: if it is another one, or the file is missing.
    """
    kind = _read(folder, "config.json").get("model_type")
    if kind not in expected:
        names = " or ".join(f"'{name}'" for name in expected)
        raise UserError(f"{folder / 'config.json'}: model_type is '{kind}', expected {names}")
    return str(kind)


def load_model(folder: Path, architecture: Any, config: Any, *, unused: Sequence[str]) -> Any:
    """Load a transformers model in float32; every weight must be there and of the right shape.

    The folder may hold weights of more than this model, and lack those whose names have a part in ``unused``.

    Raises:
        UserError: if weights are missing, misshapen or unreadable.
    """
    try:
        model, report = architecture.from_pretrained(
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
    wrong = sorted(key for key in {*report["missing_keys"], *reshaped} if not any(name in key for name in unused))
    if wrong:
        raise UserError(
            f"{folder}: {len(wrong)} vision weights are missing or of another shape than config.json says "
            f"({', '.join(wrong[:3])}, ...); download the encoder again"
        )
    log.info("Loaded %s: %d unused tensors", folder, len(report["unexpected_keys"]))
    return model.float()


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a Hugging Face model folder (download the encoder again)")
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; download the encoder again")
    return content


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
