"""Which images there are: where the PNG of each lies in its shard, or its file in an ImageFolder. Needs NumPy only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr.base.errors import UserError
from dsr.base.files import atomic_stream

_KEYS = {"shard", "offset", "length", "label", "shards", "shard_bytes", "image_size", "classes"}
_FOLDER_KEYS = {"folder", "paths", "label", "image_size", "classes"}


class PreparedIndex:
    """Reads PNG files inside the shards that an index file lists; reading one is one ``pread``.

    It can be pickled, and used after a fork: a process opens the shards that it reads.

    Args:
        path: file written by ``dsr.commands.prepare index``; the shards lie beside it.

    Raises:
        UserError: if the index or a shard is missing, or a shard is not the one that was indexed.
    """

    def __init__(self, path: Path) -> None:
        arrays = _arrays(path, _KEYS)
        self.labels = arrays["label"].astype(np.int64)
        """Class of every image, shape (images,)."""
        self.classes = [str(name) for name in arrays["classes"]]
        """Names of the classes."""
        self.image_size = int(arrays["image_size"])
        """Side of an image in pixels."""
        self._shard, self._offset, self._length = arrays["shard"], arrays["offset"], arrays["length"]
        self._paths = [path.parent / str(name) for name in arrays["shards"]]
        self._files: dict[int, int] = {}
        for shard, size in zip(self._paths, arrays["shard_bytes"], strict=True):
            if not shard.is_file() or shard.stat().st_size != size:
                raise UserError(
                    f"{shard}: expected the file of {size} bytes that {path} lists; prepare the images again"
                )

    def encoded(self, index: int) -> bytearray:
        """Return the PNG file of image ``index``.

        Raises:
            UserError: if the shard cannot be read, or was cut off after the index was opened.
        """
        encoded = bytearray(int(self._length[index]))
        try:
            read = os.preadv(self._file(int(self._shard[index])), [encoded], int(self._offset[index]))
        except OSError as error:
            raise UserError(
                f"{self.shard(index)}: image {index} cannot be read ({error.strerror}); see to the storage, or prepare"
                " the images again, and run the same command again"
            ) from None
        if read != len(encoded):
            raise UserError(f"{self.shard(index)}: ends inside image {index}; prepare the images again")
        return encoded

    def shard(self, index: int) -> Path:
        """Return the shard that holds image ``index``."""
        path: Path = self._paths[self._shard[index]]
        return path

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            self._files[shard] = os.open(self._paths[shard], os.O_RDONLY)
        return self._files[shard]

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", {}).values():
            os.close(file)


class FolderIndex:
    """Lists the images of an ImageFolder, so that not every process has to search it.

    Args:
        path: file written by :func:`write_folder_index`.

    Raises:
        UserError: if the index or the folder is missing, or the file is no such index.
    """

    def __init__(self, path: Path) -> None:
        arrays = _arrays(path, _FOLDER_KEYS)
        self.labels = arrays["label"].astype(np.int64)
        """Class of every image, shape (images,)."""
        self.classes = [str(name) for name in arrays["classes"]]
        """Names of the classes."""
        self.image_size = int(arrays["image_size"])
        """Side of a crop in pixels."""
        self._folder, self._paths = Path(str(arrays["folder"])), arrays["paths"]
        if not self._folder.is_dir():
            raise UserError(f"{self._folder}: no such folder, but {path} lists its images; correct data.train and such")

    def path(self, index: int) -> Path:
        """Return the file of image ``index``."""
        return self._folder / os.fsdecode(bytes(self._paths[index]))

    def __len__(self) -> int:
        return len(self.labels)


def write_folder_index(
    folder: Path, paths: Sequence[Path], labels: npt.NDArray[np.int64], classes: Sequence[str], size: int, output: Path
) -> None:
    """Write the index of the images of an ImageFolder, to be cropped to ``size`` when they are read."""
    folder = folder.absolute()
    with atomic_stream(output) as stream:
        np.savez(
            stream,
            folder=np.array(str(folder)),
            # Bytes: text would take four times the room.
            paths=np.array([os.fsencode(path.absolute().relative_to(folder)) for path in paths]),
            label=labels.astype(np.int32),
            image_size=np.int64(size),
            classes=np.array(classes),
        )


def is_folder_index(path: Path) -> bool:
    """Whether an index lists the files of an ImageFolder, and not prepared images."""
    return "paths" in _names(path)


def check_index(path: Path, *, images: int, classes: int, image_size: int) -> None:
    """Compare an index with what the configuration says about the images.

    Raises:
        UserError: naming the key that differs, with both values.
    """
    index = FolderIndex(path) if is_folder_index(path) else PreparedIndex(path)
    for key, found, expected in (
        ("images", len(index), images),
        ("classes", len(index.classes), classes),
        ("image_size", index.image_size, image_size),
    ):
        if found != expected:
            raise UserError(f"{path}: {key} is {found}, but the configuration says {expected}; correct one of them")


def fingerprint(path: Path) -> str:
    """SHA-256 of which images an index lists, in their order: their classes, and their sizes in bytes or their names.

    It does not depend on where the images lie or how they are spread over shards.
    """
    names = ("paths",) if is_folder_index(path) else ("length",)
    digest = hashlib.sha256()
    for key, array in sorted(_arrays(path, {*names, "label", "image_size", "classes"}).items()):
        digest.update(f"{key} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _names(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.files)


def _arrays(path: Path, keys: set[str]) -> dict[str, npt.NDArray[Any]]:
    if missing := keys.difference(_names(path)):
        raise UserError(f"{path}: not an index of prepared images (missing {', '.join(sorted(missing))})")
    with _opened(path) as file:
        return {key: file[key] for key in keys}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write it with `python -m dsr.commands.prepare index`") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable index of prepared images ({error})") from None
