"""Labelled square images in the order of an index file: in prepared shards, or cropped when read. Needs no PyTorch."""

import abc
import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from dsr.base.errors import UserError
from dsr.data.folder import center_crop, load_rgb

_COMMON = {"label", "image_size", "classes", "pillow"}
_PREPARED = _COMMON | {"shard", "offset", "length", "shards", "shard_bytes"}
_LISTED = _COMMON | {"folder", "paths"}


class Images(abc.ABC):
    """Images of one size with labels."""

    def __init__(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        self.labels = arrays["label"].astype(np.int64)
        """Class of every image, shape (images,)."""
        self.classes = [str(name) for name in arrays["classes"]]
        """Names of the classes."""
        self.image_size = int(arrays["image_size"])
        """Side of an image in pixels."""

    @abc.abstractmethod
    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return image ``index``, uint8 (H, W, 3).

        Raises:
            UserError: if it cannot be read, naming its file.
        """

    def __len__(self) -> int:
        return len(self.labels)


class PreparedImages(Images):
    """Images inside prepared shards; reading one is one ``pread``.

    They can be pickled, and used after a fork: a process opens the shards that it reads.

    Raises:
        UserError: if a shard is missing beside the index, or is not the one that was indexed.
    """

    def __init__(self, index: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
        super().__init__(arrays)
        self._spans = np.stack([arrays["shard"], arrays["offset"], arrays["length"]], axis=1)
        self._paths = [index.parent / str(name) for name in arrays["shards"]]
        self._files: dict[int, io.FileIO] = {}
        for shard, size in zip(self._paths, arrays["shard_bytes"], strict=True):
            if not shard.is_file() or shard.stat().st_size != size:
                raise UserError(
                    f"{shard}: expected the file of {size} bytes that {index} lists; prepare the images again"
                )

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return image ``index``, uint8 (H, W, 3); its shard may have been cut off after the index was opened."""
        shard, offset, length = self._spans[index].tolist()
        path, encoded = self._paths[shard], bytearray(length)
        try:
            if shard not in self._files:
                self._files[shard] = io.FileIO(path)
            read = os.preadv(self._files[shard].fileno(), [encoded], offset)
        except OSError as error:
            raise UserError(
                f"{path}: image {index} cannot be read ({error.strerror}); see to the storage, or prepare the images"
                " again, and run the same command again"
            ) from None
        if read != length:
            raise UserError(f"{path}: ends inside image {index}; prepare the images again")
        try:
            return np.asarray(Image.open(io.BytesIO(encoded)))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path}: image {index} is damaged ({error}); prepare the images again") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


class ListedImages(Images):
    """The images of an ImageFolder, cropped when read: byte for byte what preparing them gives.

    Raises:
        UserError: if the folder is missing, or another version of Pillow wrote the index.
    """

    def __init__(self, index: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
        super().__init__(arrays)
        self._folder, self._paths = Path(str(arrays["folder"])), arrays["paths"]
        if str(arrays["pillow"]) != PIL.__version__:
            raise UserError(
                f"{index}: written with Pillow {arrays['pillow']}, but this is Pillow {PIL.__version__}, which may"
                " round crops otherwise; install that version, or delete the index to begin anew with this one"
            )
        if not self._folder.is_dir():
            raise UserError(
                f"{self._folder}: no such folder, but {index} lists its images; correct `artifacts` in config.yaml"
            )

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return image ``index``, uint8 (H, W, 3), or raise UserError."""
        path = self._folder / os.fsdecode(bytes(self._paths[index]))
        return np.asarray(center_crop(load_rgb(path), self.image_size))


def open_images(index: Path) -> Images:
    """Open the images of an index of either kind."""
    arrays = _arrays(index)
    return (ListedImages if "paths" in arrays else PreparedImages)(index, arrays)


def class_names(index: Path) -> list[str]:
    """Return the names of an index's classes, in the order of their labels."""
    return [str(name) for name in _arrays(index)["classes"]]


def check_index(path: Path, *, images: int, classes: int, image_size: int) -> None:
    """Compare an index with what the configuration says about the images.

    Raises:
        UserError: naming the key that differs, with both values.
    """
    found = open_images(path)
    for key, value, expected in (
        ("images", len(found), images),
        ("classes", len(found.classes), classes),
        ("image_size", found.image_size, image_size),
    ):
        if value != expected:
            raise UserError(f"{path}: {key} is {value}, but the configuration says {expected}; correct one of them")


def fingerprint(path: Path) -> str:
    """SHA-256 of which images an index lists, in their order: their classes, and their sizes in bytes or their names.

    It depends on Pillow's version, which crops do, but not on where the images lie or how they are spread over shards.
    """
    arrays = _arrays(path)
    digest = hashlib.sha256()
    for key in sorted(_COMMON | ({"length", "paths"} & arrays.keys())):
        digest.update(f"{key} {arrays[key].dtype.str} {arrays[key].shape}".encode())
        digest.update(arrays[key].tobytes())
    return digest.hexdigest()


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write it with `python -m dsr.commands.prepare index`") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable index of prepared images ({error})") from None
    if missing := (_LISTED if "paths" in arrays else _PREPARED) - arrays.keys():
        raise UserError(
            f"{path}: not an index, or an old one (missing {', '.join(sorted(missing))}); prepare the images again"
        )
    return arrays
