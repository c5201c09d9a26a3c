"""The validation images that maps are made of, and conversion between images and pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from dsr.base.errors import UserError
from dsr.data.images import Images
from dsr.encoder.autoencoder import quantised


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
