"""Folders of images, listed as torchvision does and cropped as ADM does; and labelled square images in the order of an
index file: in prepared shards, or cropped when read. Needs no PyTorch."""

import abc
import hashlib
import io
import logging
import os
import re
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from dsr.base.errors import UserError

log = logging.getLogger(__name__)

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_COMMON = {"label", "image_size", "classes", "pillow"}
_PREPARED = _COMMON | {"shard", "offset", "length", "shards", "shard_bytes"}
_LISTED = _COMMON | {"folder", "paths"}


@dataclass(frozen=True)
class Listing:
    """The images of a folder in a fixed order: by class name, then by path."""

    paths: list[Path]
    labels: npt.NDArray[np.int64]
    classes: list[str]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a system's own, such as `.DS_Store`, `._a.jpg` and `__MACOSX` of a Mac."""
    return name.startswith(".") or name == "__MACOSX"


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and each one below that is not hidden, with the names of its files.

    Raises:
        OSError: if one cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield place, sorted(names)


def list_folder(folder: Path, images: int | None = None, classes: int | None = None) -> Listing:
    """List the images of an ImageFolder, which may have to be so many of so many classes; hidden files are left out.

    Raises:
        UserError: if there is no folder, no class or an empty class, or other numbers of them.
        OSError: if a folder cannot be read.
    """
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name)]
    paths: list[Path] = []
    counts, hidden = [], 0
    for name in names:
        files = [Path(place, file) for place, names_there in sorted(walk(folder / name)) for file in names_there]
        visible = [path for path in files if not is_hidden(path.name)]
        hidden += len(files) - len(visible)
        of_class = [path for path in visible if path.suffix.lower() in _EXTENSIONS]
        paths += of_class
        counts.append(len(of_class))
    if hidden:
        log.info("%s: %d hidden files are left out", folder, hidden)
    if not counts or not all(counts):
        empty = [name for name, count in zip(names, counts, strict=True) if not count]
        flat = sum(entry.suffix.lower() in _EXTENSIONS for entry in entries)
        instead = f"{flat} images are in the folder itself" if flat else "there is none"
        if empty:
            instead = f"no image in {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}"
        raise UserError(f"{folder}: expected one sub-folder of images per class ({instead})")
    # Classes first, because one that lacks takes its images along.
    about = f"classes ({names[0]} to {names[-1]})"
    for name, found, wanted in ((about, len(names), classes), ("images", len(paths), images)):
        if wanted is not None and found != wanted:
            raise UserError(
                f"{folder}: holds {found} {name}, but the configuration says {wanted}; correct the configuration, or"
                " give the right images"
            )
    return Listing(paths, np.repeat(np.arange(len(names), dtype=np.int64), counts), names)


def load_rgb(path: Path) -> Image.Image:
    """Decode an image of any mode and format as RGB; transparency is dropped, as torchvision's loader does.

    Grey pixels of 16 bits are scaled to 8 as Pillow scales coloured ones: their higher byte counts.

    Raises:
        UserError: if the file is truncated or no image, or its pixels have no known white (floats).
    """
    try:
        with path.open("rb") as stream, Image.open(stream) as image:
            return (_eight_bits(image) if image.mode[0] in "IF" else image).convert("RGB")
    # All that PIL's decoders raise for bytes that they cannot make sense of.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be decoded ({type(error).__name__}: {error})") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    # A 16-bit PNG can come as mode I; what is stored tells it from one of 32 bits, whose white is not known.
    stored: Any = getattr(image, "tile")[0].args  # noqa: B009 (no type says that it is there)
    kind = stored if isinstance(stored, str) else str(stored[0])
    if not re.fullmatch("I;16[BLNR]?", kind):
        raise ValueError(f"its pixels are {kind}, and their white is not known; save it with 8 or 16 bits")
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the central ``size`` x ``size`` pixels after scaling the shorter side to ``size``, as ADM does.

    Large images are halved with a box filter as often as possible, then resized bicubically; smaller images are
    enlarged. Evaluation references made by others depend on exactly these steps.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


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
                f"{self._folder}: no such folder, but {index} lists its images; correct data.train and such, or"
                " `artifacts`"
            )

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return image ``index``, uint8 (H, W, 3), or raise UserError."""
        path = self._folder / os.fsdecode(bytes(self._paths[index]))
        return np.asarray(center_crop(load_rgb(path), self.image_size))


def folder_arrays(folder: Path, size: int, listing: Listing) -> dict[str, Any]:
    """Return what the index of an ImageFolder holds whose images are cropped when they are read."""
    return {
        "folder": str(folder),
        # Bytes: text would take four times the room.
        "paths": [os.fsencode(path.relative_to(folder)) for path in listing.paths],
        "label": listing.labels.astype(np.int32),
        "image_size": np.int64(size),
        "classes": listing.classes,
        "pillow": PIL.__version__,
    }


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
