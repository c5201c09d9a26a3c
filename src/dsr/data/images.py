"""Labelled square images as tensors, read from prepared shards or cropped on the fly from an ImageFolder."""

from __future__ import annotations

import abc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_png

from dsr.base.errors import UserError
from dsr.data.crop import center_crop
from dsr.data.folder import load_rgb
from dsr.data.index import FolderIndex, PreparedIndex, is_folder_index

Item = int | tuple[int, bool]
"""An image's index, or (index, flip)."""


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Images of one size with labels; an item is asked for by its index, or by (index, flip)."""

    labels: npt.NDArray[np.int64]
    """Class of every image, shape (images,)."""
    classes: list[str]
    """Names of the classes."""
    image_size: int
    """Side of an image in pixels."""

    @abc.abstractmethod
    def pixels(self, index: int) -> torch.Tensor:
        """Return image ``index`` as uint8, shape (3, H, W)."""

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return image ``index`` as uint8, shape (H, W, 3)."""
        return np.ascontiguousarray(self.pixels(index).permute(1, 2, 0).numpy())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: Item) -> tuple[torch.Tensor, int]:
        """Return (uint8 pixels of shape (3, H, W), label), mirrored left to right where ``flip`` is true."""
        index, flip = item if isinstance(item, tuple) else (item, False)
        pixels = self.pixels(index)
        return pixels.flip(-1) if flip else pixels, int(self.labels[index])


class PreparedImages(Images):
    """Images inside prepared shards.

    Args:
        index: file written by ``dsr.commands.prepare index``; the shards lie beside it.

    Raises:
        UserError: if the index or a shard is missing, or a shard is not the one that was indexed; and on reading an
            image that is damaged or cannot be read.
    """

    def __init__(self, index: Path) -> None:
        self._index = PreparedIndex(index)
        self.labels = self._index.labels
        self.classes = self._index.classes
        self.image_size = self._index.image_size

    def pixels(self, index: int) -> torch.Tensor:
        """Return image ``index`` as uint8, shape (3, H, W)."""
        encoded = torch.frombuffer(self._index.encoded(index), dtype=torch.uint8)
        try:
            # 15 % faster than PIL for 256 x 256 images, and it gives the channels first.
            pixels: torch.Tensor = decode_png(encoded, ImageReadMode.RGB)
        except RuntimeError as error:
            raise UserError(
                f"{self._index.shard(index)}: image {index} is damaged ({error}); prepare the images again"
            ) from None
        return pixels


class ListedImages(Images):
    """The images of an ImageFolder, cropped when read: byte for byte what preparing them gives.

    Args:
        index: file written by ``dsr.commands.prepare folder``.

    Raises:
        UserError: if the index or the folder is missing; and on reading a file that is missing or unreadable.
    """

    def __init__(self, index: Path) -> None:
        self._index = FolderIndex(index)
        self.labels = self._index.labels
        self.classes = self._index.classes
        self.image_size = self._index.image_size

    def pixels(self, index: int) -> torch.Tensor:
        """Return image ``index`` as uint8, shape (3, H, W)."""
        image = center_crop(load_rgb(self._index.path(index)), self.image_size)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def open_images(index: Path) -> Images:
    """Open the images of an index of either kind.

    Raises:
        UserError: if something is missing or is not what the index says.
    """
    return ListedImages(index) if is_folder_index(index) else PreparedImages(index)
