"""ImageNet as its Kaggle competition hands it out, arranged into ImageFolders, which are counted before every use."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
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
Member = tuple[PurePosixPath, int, Callable[[str], object]]

FOLDERS: dict[Split, str] = {"train": "ILSVRC/Data/CLS-LOC/train", "validation": "ILSVRC/Data/CLS-LOC/val"}
"""Where the archive has the images: train in class folders, val flat."""

SOLUTION = "LOC_val_solution.csv"
"""Which class a validation image shows: `ImageId,PredictionString`, the string's first word is the class."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What torchvision takes for an image."""

_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, KeyError, ValueError, RuntimeError, OSError)
# Some of them mean encryption, or compression that Python does not know.


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


def arrange(given: Path, split: Split, output: Path, expected: ImageCount) -> Path:
    """Extract one split of the competition's zip, or link to one of the extracted archive, as an ImageFolder.

    Args:
        given: the zip, or the folder that it was extracted to.
        split: which images.
        output: the result's final place. It is made beside it; after an interruption, files that are complete are
            kept as long as what is given is the same.
        expected: what the result must hold.

    Returns:
        The ImageFolder, complete.

    Raises:
        ContentError: if the archive is damaged, or does not hold what is expected.
    """
    source = hashlib.sha256(f"{given.absolute()} {given.stat().st_size}".encode()).hexdigest()
    staging = output.with_name(f".{output.name}.{source[:8]}.partial")
    staging.mkdir(parents=True, exist_ok=True)
    with _readable(given), contextlib.ExitStack() as stack:
        archive = None if given.is_dir() else stack.enter_context(zipfile.ZipFile(given))
        root = given if archive is None else zipfile.Path(archive)
        classes = _read_solution(root / SOLUTION) if split == "validation" else {}
        members = _tree(given, split, staging) if archive is None else _archive(archive, split, staging)
        for path, size, write in tqdm(members, total=expected.images, unit=" images", desc=split, disable=None):
            place = _place(path, classes, split)
            target = staging / place
            if not target.exists() or target.stat().st_size != size:
                try:
                    write(str(place))
                except BaseException:
                    target.unlink(missing_ok=True)
                    raise
    verify(staging, expected, given)
    return staging


@contextlib.contextmanager
def _readable(archive: Path) -> Iterator[None]:
    """Turn what zipfile and tarfile raise for bytes that they cannot make sense of into one clear error."""
    try:
        yield
    except UserError:
        raise
    except _DAMAGED as error:
        # Trouble with the disk has other numbers than a place outside the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ContentError(f"{archive}: damaged, or not the competition's zip ({error})") from error


def _archive(archive: zipfile.ZipFile, split: Split, staging: Path) -> Iterator[Member]:
    """Yield a split's files: path, size, and what extracts it to a place in staging, and nowhere else.

    The zip holds them directly or, in older versions, in one tar.gz.
    """
    folder = FOLDERS[split]
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


def _tree(tree: Path, split: Split, staging: Path) -> Iterator[Member]:
    """Yield the files of an extracted archive: path, size, and what links to it from a place in staging."""
    folder = (tree / FOLDERS[split]).absolute()
    for image in folder.iterdir():
        yield PurePosixPath(image.name), image.stat().st_size, partial(_link, image, staging)


def _extract_tar(archive: tarfile.TarFile, info: tarfile.TarInfo, staging: Path, place: str) -> None:
    archive.extract(info.replace(name=place, deep=False), staging, filter="data")


def _extract_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, staging: Path, place: str) -> None:
    info.filename = place
    archive.extract(info, staging)


def _link(image: Path, staging: Path, place: str) -> None:
    (staging / place).parent.mkdir(exist_ok=True)
    (staging / place).symlink_to(image)


def _place(path: PurePosixPath, classes: dict[str, str], split: Split) -> PurePosixPath:
    """Where an image of the archive belongs in the ImageFolder: `<class>/<file>`."""
    if len(path.parts) != (2 if split == "train" else 1) or ".." in path.parts:
        raise ContentError(f"{FOLDERS[split]}/{path}: unexpected place in the archive; it is not ImageNet's layout")
    if split == "train":
        return path
    if path.stem not in classes:
        raise ContentError(f"{SOLUTION} does not say which class {path.name} shows")
    return PurePosixPath(classes[path.stem]) / path


def _read_solution(path: Path | zipfile.Path) -> dict[str, str]:
    """Return image id -> class."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        classes = {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (KeyError, IndexError, AttributeError, UnicodeDecodeError, csv.Error, FileNotFoundError):
        raise ContentError(
            f"{path}: expected the columns ImageId,PredictionString, which say what class a validation image shows"
        ) from None
    bad = [value for value in (*classes, *classes.values()) if not value or Path(value).name != value]
    if bad:
        raise ContentError(f"{path}: '{bad[0]}' is not a plain name")
    return classes
