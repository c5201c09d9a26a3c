"""Labelled square images, read from prepared shards or cropped on the fly from an ImageFolder."""

from __future__ import annotations

import abc
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_png

from dsr.data.crop import center_crop
from dsr.data.folder import list_folder, load_rgb
from dsr.errors import UserError

Item = int | tuple[int, bool]


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
    """Images inside the shards that an index file lists; reading one is one ``pread``.

    Args:
        index: file written by ``dsr.commands.prepare index``; the shards lie beside it.

    Raises:
        UserError: if the index or a shard is missing, or a shard is not the one that was indexed.
    """

    def __init__(self, index: Path) -> None:
        arrays = read_index(index)
        self.labels = arrays["label"].astype(np.int64)
        self.classes = [str(name) for name in arrays["classes"]]
        self.image_size = int(arrays["image_size"])
        self._shard, self._offset, self._length = arrays["shard"], arrays["offset"], arrays["length"]
        self._paths = [index.parent / str(name) for name in arrays["shards"]]
        self._files: dict[int, int] = {}
        for path, size in zip(self._paths, arrays["shard_bytes"], strict=True):
            if not path.is_file() or path.stat().st_size != size:
                raise UserError(
                    f"{path}: expected the file of {size} bytes that {index} lists; prepare the images again"
                )

    def pixels(self, index: int) -> torch.Tensor:
        """Return image ``index`` as uint8, shape (3, H, W)."""
        encoded = bytearray(int(self._length[index]))
        if os.preadv(self._file(int(self._shard[index])), [encoded], int(self._offset[index])) != len(encoded):
            raise OSError(f"{self._paths[self._shard[index]]}: ends inside image {index}")
        pixels: torch.Tensor = decode_png(torch.frombuffer(encoded, dtype=torch.uint8), ImageReadMode.RGB)
        return pixels

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            self._files[shard] = os.open(self._paths[shard], os.O_RDONLY)
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", {}).values():
            os.close(file)


class FolderImages(Images):
    """The images of an ImageFolder, cropped when read; byte for byte what preparing them gives.

    Args:
        folder: one sub-folder of images per class.
        image_size: side of the square crop in pixels.
    """

    def __init__(self, folder: Path, image_size: int) -> None:
        listing = list_folder(folder)
        self.labels = listing.labels
        self.classes = listing.classes
        self.image_size = image_size
        self._paths = listing.paths

    def pixels(self, index: int) -> torch.Tensor:
        """Return image ``index`` as uint8, shape (3, H, W)."""
        cropped: Image.Image = center_crop(load_rgb(self._paths[index]), self.image_size)
        return torch.from_numpy(np.array(cropped)).permute(2, 0, 1).contiguous()


def read_index(index: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of an index file.

    Raises:
        UserError: if the file is missing or is not an index.
    """
    try:
        with np.load(index, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise UserError(f"{index}: no such file; write it with `python -m dsr.commands.prepare index`") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{index}: not a readable index of prepared images ({error})") from None
    missing = {"shard", "offset", "length", "label", "shards", "shard_bytes", "image_size", "classes"} - set(arrays)
    if missing:
        raise UserError(f"{index}: not an index of prepared images (missing {', '.join(sorted(missing))})")
    return arrays


def check_index(index: Path, *, images: int, classes: int, image_size: int) -> None:
    """Compare an index with what the configuration says about the images.

    Raises:
        UserError: naming the key that differs, with both values.
    """
    arrays = read_index(index)
    for key, found, expected in (
        ("images", len(arrays["label"]), images),
        ("classes", len(arrays["classes"]), classes),
        ("image_size", int(arrays["image_size"]), image_size),
    ):
        if found != expected:
            raise UserError(f"{index}: {key} is {found}, but the configuration says {expected}; correct one of them")
