"""ImageNet as its Kaggle competition hands it out, arranged into ImageFolders, which are counted before every use."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from tqdm import tqdm

from dsr.artifacts.checks import ImageCount
from dsr.artifacts.errors import ContentError
from dsr.base.errors import UserError

Split = Literal["train", "validation"]

FOLDERS: dict[Split, str] = {"train": "ILSVRC/Data/CLS-LOC/train", "validation": "ILSVRC/Data/CLS-LOC/val"}
"""Where the archive has the images: train in class folders, val flat."""

SOLUTION = "LOC_val_solution.csv"
"""Which class a validation image shows: `ImageId,PredictionString`, the string's first word is the class."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What torchvision takes for an image."""


def verify(folder: Path, expected: ImageCount, name: Path | None = None) -> None:
    """Check that an ImageFolder has so many class folders, none of them empty, and so many images; only names count.

    Args:
        folder: the ImageFolder.
        expected: the numbers.
        name: what messages name instead of the folder.

    Raises:
        ContentError: naming everything that differs.
    """
    if not folder.is_dir():
        raise ContentError(f"{folder}: no such folder; expected one sub-folder of images per class")
    found = {
        place.name: sum(image.name.lower().endswith(SUFFIXES) for image in place.iterdir())
        for place in sorted(folder.iterdir())
        if place.is_dir()
    }
    total = sum(found.values())
    empty = [label for label, number in found.items() if not number]
    problems = []
    if len(found) != expected.classes:
        problems.append(f"{len(found)} class folders instead of {expected.classes}")
    if empty:
        problems.append(f"no images in {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}")
    if total != expected.images:
        problems.append(f"{total} images instead of {expected.images}")
    if problems:
        raise ContentError(
            f"{name or folder}: {'; '.join(problems)}. Complete it (one sub-folder of images per class, nothing else), "
            "or correct the counts in the configuration if they are meant"
        )


def extract(archive: Path, split: Split, output: Path, expected: ImageCount) -> Path:
    """Extract one split of the competition's zip to an ImageFolder beside ``output``, and return it.

    After an interruption the files that are complete are kept, as long as the archive is the same.

    Raises:
        ContentError: if the archive is damaged, or does not hold what is expected.
    """
    source = hashlib.sha256(f"{archive.absolute()} {archive.stat().st_size}".encode()).hexdigest()
    staging = output.with_name(f".{output.name}.{source[:8]}.partial")
    staging.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            classes = _read_solution(str(archive), opened.read(SOLUTION)) if split == "validation" else {}
            members = _members(opened, FOLDERS[split], staging)
            for path, size, write in tqdm(members, total=expected.images, unit=" images", desc=split, disable=None):
                place = _place(path, classes, split)
                target = staging / place
                if target.exists() and target.stat().st_size == size:
                    continue
                try:
                    write(str(place))
                except BaseException:
                    target.unlink(missing_ok=True)
                    raise
    except UserError:
        raise
    # What zipfile and tarfile raise for bytes that they cannot make sense of, encryption and unknown compression.
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise ContentError(f"{archive}: damaged, or not the competition's zip ({error})") from error
    except OSError as error:
        # A place outside the file; trouble with the disk has other numbers.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise ContentError(f"{archive}: damaged ({error})") from error
    verify(staging, expected, archive)
    return staging


def link_validation(tree: Path, output: Path, expected: ImageCount) -> Path:
    """Arrange links to the validation images of the extracted archive ``tree`` beside ``output``; return the folder.

    Raises:
        ContentError: if the tree does not hold what is expected.
    """
    solution = tree / SOLUTION
    if not solution.is_file():
        raise ContentError(f"{solution}: missing; it says which class a validation image shows")
    staging = output.with_name(f".{output.name}.links")
    shutil.rmtree(staging, ignore_errors=True)
    for name, label in _read_solution(str(solution), solution.read_bytes()).items():
        image = (tree / FOLDERS["validation"] / f"{name}.JPEG").absolute()
        if not image.is_file():
            raise ContentError(f"{image}: missing, but {solution} lists it; extract the archive again")
        place = staging / label / image.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(image)
    verify(staging, expected, tree)
    return staging


def _members(
    archive: zipfile.ZipFile, folder: str, staging: Path
) -> Iterator[tuple[PurePosixPath, int, Callable[[str], object]]]:
    """Yield the files below a folder of the archive: path below it, size, and what extracts it to a place in staging.

    The zip holds them directly or, in older versions, in one tar.gz. The libraries refuse ways out of the staging
    folder, and make no links.
    """
    tars = [name for name in archive.namelist() if name.endswith((".tar.gz", ".tgz", ".tar"))]
    if tars and not any(name.startswith(f"{folder}/") for name in archive.namelist()):
        with archive.open(tars[0]) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            for inner in tar:
                path = PurePosixPath(inner.name)
                if inner.isfile() and path.is_relative_to(folder):
                    yield path.relative_to(folder), inner.size, partial(_extract_tar, tar, inner, staging)
    else:
        for info in archive.infolist():
            path = PurePosixPath(info.filename)
            if not info.is_dir() and path.is_relative_to(folder):
                yield path.relative_to(folder), info.file_size, partial(_extract_zip, archive, info, staging)


def _extract_tar(archive: tarfile.TarFile, info: tarfile.TarInfo, staging: Path, place: str) -> None:
    archive.extract(info.replace(name=place, deep=False), staging, filter="data")


def _extract_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, staging: Path, place: str) -> None:
    info.filename = place
    archive.extract(info, staging)


def _place(path: PurePosixPath, classes: dict[str, str], split: Split) -> PurePosixPath:
    """Where an image of the archive belongs in the ImageFolder: `<class>/<file>`."""
    if len(path.parts) != (2 if split == "train" else 1) or ".." in path.parts:
        raise ContentError(f"{FOLDERS[split]}/{path}: unexpected place in the archive; it is not ImageNet's layout")
    if split == "train":
        return path
    if path.stem not in classes:
        raise ContentError(f"{SOLUTION} does not say which class {path.name} shows")
    return PurePosixPath(classes[path.stem]) / path


def _read_solution(name: str, content: bytes) -> dict[str, str]:
    """Return image id -> class."""
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
        classes = {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (KeyError, IndexError, AttributeError, UnicodeDecodeError, csv.Error):
        raise ContentError(
            f"{name}: {SOLUTION} must have columns ImageId,PredictionString with a class in every row"
        ) from None
    bad = [value for value in (*classes, *classes.values()) if not value or Path(value).name != value]
    if bad:
        raise ContentError(f"{name}: '{bad[0]}' is not a plain name")
    return classes
