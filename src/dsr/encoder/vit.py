"""Frozen image encoders: pre-norm ViTs from Hugging Face folders, walked block by block."""

import abc
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F

from dsr.base.errors import UserError
from dsr.base.files import read_json
from dsr.encoder.blocks import Block
from dsr.registers.discovery import Trace

NORM_EPS = 1e-6
"""Epsilon of the final LayerNorm, which has no weight and no bias: every token leaves with norm sqrt(D)."""

Encoder = TypeVar("Encoder", bound="VitEncoder")


class VitEncoder(nn.Module, abc.ABC):
    """A vision transformer without its trained final LayerNorm and its heads; frozen.

    The T tokens of a stream are ``prefix`` tokens of the model's own (CLS, trained registers), the image tokens in
    row-major order, and ``registers`` test-time registers.

    Args:
        embeddings: turns standardised pixels into prefix and image tokens with positions; it has a ``patch_size`` and a
            ``config`` with a ``hidden_size``.
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
        processor = read_settings(folder, "preprocessor_config.json")
        missing = [key for key in ("image_mean", "image_std") if key not in processor]
        if missing:
            raise UserError(f"{folder / 'preprocessor_config.json'}: {', '.join(missing)} missing; download it again")
        scale = {"pixel_mean": processor["image_mean"], "pixel_std": processor["image_std"]}
        return cls.read(folder, input_size=input_size, **scale)

    @classmethod
    @abc.abstractmethod
    def read(cls: type[Encoder], folder: Path, **options: Any) -> Encoder:
        """Return the vision model of a folder, float32; ``options`` are arguments of the class."""

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
    kind = read_settings(folder, "config.json").get("model_type")
    if kind not in expected:
        names = " or ".join(f"'{name}'" for name in expected)
        raise UserError(f"{folder / 'config.json'}: model_type is '{kind}', expected {names}")
    return str(kind)


def refuse_missing(source: Path, names: Collection[str]) -> None:
    """Refuse, by UserError, a source that lacks the weights of these names, or has them in another shape."""
    if names:
        raise UserError(
            f"{source}: {len(names)} vision weights are missing or of another shape than config.json says "
            f"({', '.join(sorted(names)[:3])}, ...); download the encoder again"
        )


def read_settings(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON file of a Hugging Face folder.

    Raises:
        UserError: if it is missing or damaged.
    """
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a Hugging Face model folder (download the encoder again)")
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; download the encoder again")
    return content
