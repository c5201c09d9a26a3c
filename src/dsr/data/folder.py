"""Folders of images: one sub-folder per class, listed as torchvision does."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision.datasets import ImageFolder

from dsr.base.errors import UserError


class UnreadableImageError(UserError):
    """A file that is truncated or no image; the message names it."""


@dataclass(frozen=True)
class Listing:
    """The images of a folder in a fixed order: by class name, then by path."""

    paths: list[Path]
    labels: npt.NDArray[np.int64]
    classes: list[str]


def list_folder(folder: Path) -> Listing:
    """List the images of an ImageFolder.

    Raises:
        UserError: if there is no folder, no class or an empty class.
    """
    try:
        dataset = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: expected one sub-folder of images per class ({error})") from None
    paths = [Path(path) for path, _ in dataset.samples]
    return Listing(paths, np.array(dataset.targets, np.int64), list(dataset.classes))


def load_rgb(path: Path) -> Image.Image:
    """Decode an image of any mode and format as RGB; transparency is dropped, as torchvision's loader does.

    Raises:
        UnreadableImageError: if the file is truncated or no image.
    """
    try:
        with path.open("rb") as stream, Image.open(stream) as image:
            return image.convert("RGB")
    # All that PIL's decoders raise for bytes that they cannot make sense of.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path}: cannot be decoded ({type(error).__name__}: {error})") from error
