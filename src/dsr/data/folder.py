"""Folders of images, one sub-folder per class: listed as torchvision does, and cropped, without PyTorch."""

import logging
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dsr.base.errors import UserError

log = logging.getLogger(__name__)

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


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
