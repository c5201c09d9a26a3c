"""ImageNet as its Kaggle competition hands it out, arranged into ImageFolders."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from tqdm import tqdm

from dsr.artifacts import archives, images, publish
from dsr.artifacts.archives import Member
from dsr.artifacts.checks import ImageCount
from dsr.artifacts.errors import ContentError

log = logging.getLogger(__name__)

Split = Literal["train", "validation"]

FOLDERS: dict[Split, PurePosixPath] = {
    "train": PurePosixPath("ILSVRC/Data/CLS-LOC/train"),
    "validation": PurePosixPath("ILSVRC/Data/CLS-LOC/val"),
}
"""Where the archive has the images: train in class folders, val flat."""

SOLUTION = "LOC_val_solution.csv"
"""Which class a validation image shows: `ImageId,PredictionString`, the string's first word is the class."""


def from_archive(archive: Path, split: Split, output: Path, expected: ImageCount) -> None:
    """Extract one split of the competition's zip to the ImageFolder ``output``.

    Files arrive in `.<output>.partial` beside it; after an interruption those that are complete are kept.

    Raises:
        ContentError: if the archive is damaged, unsafe, or does not hold what is expected.
    """
    staging = _staging(output)
    with archives.readable(f"{archive} (a zip is expected)"), zipfile.ZipFile(archive) as opened:
        classes = _read_solution(opened) if split == "validation" else {}
        # Every name is looked at before the first file is written.
        members = list(archives.zip_members(opened))
        with _split_members(opened, members, split) as selected:
            progress = tqdm(selected, total=expected.images, unit=" images", desc=split, disable=None)
            for member in progress:
                place = _place(member.path.relative_to(FOLDERS[split]), classes, split)
                archives.extract(member, staging / place, staging / ".scratch")
    (staging / ".scratch").unlink(missing_ok=True)
    _finish(staging, output, expected)


def from_tree(tree: Path, split: Split, output: Path, expected: ImageCount) -> None:
    """Make ``output`` an ImageFolder of links into the competition's extracted archive ``tree``; nothing is copied.

    Raises:
        ContentError: if the tree does not hold what is expected.
    """
    source = (tree / FOLDERS[split]).absolute()
    if split == "train":
        images.verify(source, images=expected.images, classes=expected.classes)
        publish.link(source, output)
        return
    solution = tree / SOLUTION
    if not solution.is_file():
        raise ContentError(f"{solution}: missing; it says which class a validation image shows")
    staging = _staging(output)
    for name, label in _parse_solution(str(solution), solution.read_bytes()).items():
        image = source / f"{name}.JPEG"
        if not image.is_file():
            raise ContentError(f"{image}: missing, but {solution} lists it; extract the archive again")
        place = staging / label / image.name
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(image)
    _finish(staging, output, expected)


def is_tree(folder: Path, split: Split) -> bool:
    """Whether ``folder`` is the competition's extracted archive."""
    return (folder / FOLDERS[split]).is_dir()


def _staging(output: Path) -> Path:
    staging = output.with_name(f".{output.name}.partial")
    staging.mkdir(parents=True, exist_ok=True)
    return staging


def _finish(staging: Path, output: Path, expected: ImageCount) -> None:
    images.verify(staging, images=expected.images, classes=expected.classes)
    publish.folder(staging, output)
    log.info("%s: %d images in %d classes", output, expected.images, expected.classes)


def _place(path: PurePosixPath, classes: dict[str, str], split: Split) -> PurePosixPath:
    """Where an image of the archive belongs in the ImageFolder: `<class>/<file>`."""
    parts = 2 if split == "train" else 1
    if len(path.parts) != parts:
        raise ContentError(f"{FOLDERS[split] / path}: unexpected place in the archive; it is not ImageNet's layout")
    if split == "train":
        return path
    if path.stem not in classes:
        raise ContentError(f"{SOLUTION} does not say which class {path.name} shows")
    return PurePosixPath(classes[path.stem]) / path


@contextlib.contextmanager
def _split_members(archive: zipfile.ZipFile, members: list[Member], split: Split) -> Iterator[Iterable[Member]]:
    """Yield the images of a split; the zip holds them directly or, in older versions, in one tar.gz."""
    inside = [member for member in members if FOLDERS[split] in member.path.parents]
    tars = [member for member in members if member.path.name.endswith((".tar.gz", ".tgz", ".tar"))]
    if inside or not tars:
        if not inside:
            raise ContentError(f"{archive.filename}: holds no {FOLDERS[split]}; it is not the competition's archive")
        yield inside
        return
    name = f"{archive.filename}/{tars[0].path}"
    with archives.readable(name), tars[0].open() as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
        yield (member for member in archives.tar_members(name, tar) if FOLDERS[split] in member.path.parents)


def _read_solution(archive: zipfile.ZipFile) -> dict[str, str]:
    if SOLUTION not in archive.namelist():
        raise ContentError(f"{archive.filename}: holds no {SOLUTION}; it is not the competition's archive")
    return _parse_solution(f"{archive.filename}/{SOLUTION}", archive.read(SOLUTION))


def _parse_solution(name: str, content: bytes) -> dict[str, str]:
    """Return image id -> class."""
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
        classes = {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (KeyError, IndexError, AttributeError, UnicodeDecodeError, csv.Error):
        raise ContentError(f"{name}: expected columns ImageId,PredictionString with a class in every row") from None
    bad = [value for value in (*classes, *classes.values()) if not value or Path(value).name != value]
    if bad:
        raise ContentError(f"{name}: '{bad[0]}' is not a plain name")
    return classes
