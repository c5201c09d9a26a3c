"""From images, residual streams and attention weights to the arrays of a maps file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dsr.analysis.maps import OUTPUT
from dsr.analysis.outliers import attention_received, first_component, token_norms
from dsr.base.errors import UserError
from dsr.data.images import Images
from dsr.encoder.autoencoder import quantised

Array = npt.NDArray[np.float32]
Layer = dict[str, Array]


def read_chosen(images: Images, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Read images by index, in the order asked for: (I, H, W, 3).

    Raises:
        UserError: if there are none, or one is beyond the last.
    """
    if not indices or not all(0 <= index < len(images) for index in indices):
        raise UserError(f"figures.images {list(indices)}: give at least one index below {len(images)}")
    return np.stack([images.read(index) for index in indices])


def to_pixels(images: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Convert uint8 images (I, H, W, 3) to floats in [0, 1], (I, 3, H, W)."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


def to_images(pixels: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Convert pixels (I, 3, H, W) to uint8 images (I, H, W, 3) as samples are."""
    return quantised(pixels).cpu().numpy()


def measure_layer(stream: torch.Tensor, image: slice, weights: torch.Tensor | None = None) -> Layer:
    """Measure one layer: what :class:`TokenMaps` holds of it, by name, without the axes of times and layers.

    Args:
        stream: tokens after the layer, (B, T, D).
        image: which of the T tokens are image tokens (a square number of them); the rest are registers.
        weights: attention weights inside the layer, (B, heads, T, T); None where the layer has no attention.

    Raises:
        UserError: if a token is not finite.
    """
    tokens = stream.float().cpu().numpy()
    if not np.isfinite(tokens).all():
        raise UserError("tokens of the network are not finite: its weights have diverged, look at the training log")
    pictured, registers = _split(tokens, image)
    side = math.isqrt(pictured.shape[1])
    components = [first_component(one) for one in pictured]
    attention = np.full(tokens.shape[:2], np.nan, np.float32)
    register_attention = np.full(len(tokens), np.nan, np.float32)
    if weights is not None:
        attention = np.stack([attention_received(one) for one in weights.float().cpu().numpy()])
        register_attention = _split(attention, image)[1].sum(1)
    grid = (len(tokens), side, side)
    return {
        "norms": token_norms(pictured).reshape(grid),
        "components": np.stack([projection for projection, _ in components]).reshape(grid),
        "explained": np.array([share for _, share in components], np.float32),
        "attention": _split(attention, image)[0].reshape(grid),
        "register_attention": register_attention,
        "register_norms": token_norms(registers),
    }


def stack_layers(passes: Sequence[Sequence[Layer]]) -> dict[str, Any]:
    """Stack T forward passes of L layers to arrays (B, T, L, ...), and name the layers: fields of a maps file.

    A layer without registers has NaN register norms where another one has registers.
    """
    registers = max(layer["register_norms"].shape[1] for layers in passes for layer in layers)
    for layer in itertools.chain.from_iterable(passes):
        missing = registers - layer["register_norms"].shape[1]
        layer["register_norms"] = np.pad(layer["register_norms"], ((0, 0), (0, missing)), constant_values=np.nan)
    arrays = {
        name: np.stack([np.stack([layer[name] for layer in layers], 1) for layers in passes], 1)
        for name in passes[0][0]
    }
    return {**arrays, "layers": np.array([*map(str, range(1, len(passes[0]))), OUTPUT])}


def _split(tokens: Array, image: slice) -> tuple[Array, Array]:
    inside = np.zeros(tokens.shape[1], bool)
    inside[image] = True
    return tokens[:, inside], tokens[:, ~inside]
