"""What all frozen image encoders share: a pre-norm ViT, walked block by block."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F

from dsr.encoder import folders
from dsr.encoder.blocks import Block, Trace

NORM_EPS = 1e-6
"""Epsilon of the final LayerNorm, which has no weight and no bias: every token leaves with norm sqrt(D)."""

Encoder = TypeVar("Encoder", bound="VitEncoder")


class VitEncoder(nn.Module, abc.ABC):
    """A vision transformer without its trained final LayerNorm and its heads; frozen.

    The T tokens of a stream are ``prefix`` tokens of the model's own (CLS, trained registers), the image tokens in
    row-major order, and ``registers`` test-time registers.

    Args:
        embeddings: turns standardised pixels into prefix and image tokens with positions.
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
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
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
    def load(cls: type[Encoder], folder: Path, input_size: int) -> Encoder:
        """Load the vision model of a Hugging Face folder (config, weights, processor), in float32.

        Raises:
            UserError: if a file is missing or the weights are not those of the configured model.
        """
        mean, std = folders.read_scale(folder)
        return cls.from_vision_model(
            cls.read_vision_model(folder), input_size=input_size, pixel_mean=mean, pixel_std=std
        )

    @classmethod
    @abc.abstractmethod
    def read_vision_model(cls, folder: Path) -> Any:
        """Return the transformers model in a Hugging Face folder, float32."""

    @classmethod
    @abc.abstractmethod
    def from_vision_model(
        cls: type[Encoder], model: Any, *, input_size: int, pixel_mean: Sequence[float], pixel_std: Sequence[float]
    ) -> Encoder:
        """Wrap a transformers model, sharing its weights."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Width D of a token."""

    @property
    @abc.abstractmethod
    def patch_size(self) -> int:
        """Side of a patch in pixels."""

    @property
    def prefix(self) -> int:
        """Tokens of the model's own before the image tokens."""
        return 0

    def image_tokens(self, count: int) -> slice:
        """Which of ``count`` tokens of a stream are image tokens."""
        return slice(self.prefix, count - self.registers)

    def with_blocks(self: Encoder, blocks: Iterable[Block], registers: int) -> Encoder:
        """Return an encoder that shares everything but its blocks with this one, on the same device."""
        return type(self)(
            self.embeddings,
            blocks,
            input_size=self.input_size,
            pixel_mean=self.pixel_mean.flatten().tolist(),
            pixel_std=self.pixel_std.flatten().tolist(),
            registers=registers,
        ).to(self.pixel_mean.device)

    def preprocess(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize pixels (B, 3, H, W) in [0, 1] to the input size, then standardise them.

        The bicubic resize may leave [0, 1]; nothing is clamped, as in the release.
        """
        return (resize(pixels, self.input_size) - self.pixel_mean) / self.pixel_std

    @abc.abstractmethod
    def tokenise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Standardised pixels (B, 3, H, W) -> prefix and image tokens with positions (B, prefix + N, D)."""

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
