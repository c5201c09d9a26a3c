"""Counting an ImageFolder: quick enough to be done before every use."""

from __future__ import annotations

import os
from pathlib import Path

from dsr.artifacts.errors import ContentError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What torchvision takes for an image."""


def count(folder: Path) -> dict[str, int]:
    """Return class folder -> number of images; only names are looked at.

    Raises:
        ContentError: if there is no such folder.
    """
    try:
        with os.scandir(folder) as entries:
            classes = sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        raise ContentError(f"{folder}: no such folder; expected one sub-folder of images per class") from None
    return {name: _count_files(folder / name) for name in classes}


def verify(folder: Path, *, images: int, classes: int) -> None:
    """Check that an ImageFolder has so many class folders, none of them empty, and so many images.

    Raises:
        ContentError: naming everything that differs.
    """
    found = count(folder)
    total = sum(found.values())
    empty = [name for name, number in found.items() if not number]
    problems = []
    if len(found) != classes:
        problems.append(f"{len(found)} class folders instead of {classes}")
    if empty:
        problems.append(f"no images in {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}")
    if total != images:
        problems.append(f"{total} images instead of {images}")
    if problems:
        raise ContentError(
            f"{folder}: {'; '.join(problems)}. Complete the folder (one sub-folder of images per class, nothing else), "
            "or correct the counts in the configuration if they are meant"
        )


def _count_files(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.name.lower().endswith(SUFFIXES) for entry in entries)
