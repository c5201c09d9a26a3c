"""ImageNet as its Kaggle competition hands it out, arranged into ImageFolders, which are counted before every use."""

import contextlib
import csv
import errno
import functools
import hashlib
import logging
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from tqdm import tqdm

from dsr.artifacts.manifest import ImageCount
from dsr.base.errors import UserError
from dsr.data.images import is_hidden, list_folder, walk

log = logging.getLogger(__name__)

Split = Literal["train", "validation"]

FOLDERS: dict[Split, str] = {"train": "ILSVRC/Data/CLS-LOC/train", "validation": "ILSVRC/Data/CLS-LOC/val"}
"""Where the archive has the images: train in class folders, val flat."""

SOLUTION = "LOC_val_solution.csv"
"""Which class a validation image shows: `ImageId,PredictionString`, the string's first word is the class."""


def arrange(given: Path, split: Split, output: Path, expected: ImageCount) -> Path:
    """Extract one split of the competition's zip, or link to one of the extracted archive, as an ImageFolder.

    It is made beside ``output``, its final place, and returned when it is complete. After an interruption, files with
    the archive's checksum are kept as long as the archive is the same; what was made of another one is removed.

    Raises:
        UserError: if the archive is damaged, or does not hold what is expected.
    """
    about = given.stat()
    source = hashlib.sha256(f"{given.absolute()} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()
    staging = output.with_name(f".{output.name}.{source[:8]}.partial")
    hidden = 0
    with _readable(given), contextlib.nullcontext() if given.is_dir() else zipfile.ZipFile(given) as archive:
        for earlier in output.parent.glob(f".{output.name}.*.partial"):
            if earlier != staging or given.is_dir():
                shutil.rmtree(earlier)
        staging.mkdir(parents=True, exist_ok=True)
        solution = (given if archive is None else zipfile.Path(archive)) / SOLUTION
        classes = functools.cache(lambda: _read_solution(solution))
        members = _members(given, archive, FOLDERS[split])
        for path, put in tqdm(members, total=expected.images, unit=" images", desc=split, disable=None):
            if any(map(is_hidden, path.parts)):
                hidden += 1
                continue
            target = staging / _place(path, classes, split)
            target.parent.mkdir(exist_ok=True)
            put(target)
    if hidden:
        log.info("%s: %d hidden files are left out", given, hidden)
    try:
        list_folder(staging, expected.images, expected.classes)
    except UserError as error:
        raise UserError(str(error).replace(str(staging), str(given))) from None
    return staging


@contextlib.contextmanager
def _readable(archive: Path) -> Iterator[None]:
    """Turn what zipfile and tarfile raise for bytes that they cannot make sense of into one clear error."""
    try:
        yield
    except UserError:
        raise
    # RuntimeError and its NotImplementedError mean encryption, or compression that Python does not know.
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError, RuntimeError, OSError) as error:
        # Trouble with the disk has other numbers than a place outside the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(f"{archive}: damaged, or not the competition's zip ({error})") from error


def _members(
    given: Path, archive: zipfile.ZipFile | None, folder: str
) -> Iterator[tuple[PurePosixPath, Callable[[Path], object]]]:
    """Yield the files below a folder of the archive: path, and what writes or links it to a place.

    The zip holds them directly or, in older versions, in one tar.gz.
    """
    if archive is None:
        root = (given / folder).absolute()
        for place, names in walk(root):
            for image in (Path(place, name) for name in names):
                yield PurePosixPath(image.relative_to(root)), functools.partial(os.symlink, image)
        return
    names = archive.namelist()
    tars = [name for name in names if name.endswith((".tar.gz", ".tgz", ".tar"))]
    if tars and not any(name.startswith(f"{folder}/") for name in names):
        with archive.open(tars[0]) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            for inner in tar:
                path, file = PurePosixPath(inner.name), tar.extractfile(inner) if inner.isfile() else None
                if file and path.is_relative_to(folder):
                    yield path.relative_to(folder), functools.partial(Path.write_bytes, data=file.read())
        return
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        if not info.is_dir() and path.is_relative_to(folder):
            yield path.relative_to(folder), functools.partial(_write, archive, info)


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """Write a member, unless a file with its checksum is there."""
    if not target.exists() or zlib.crc32(target.read_bytes()) != info.CRC:
        target.write_bytes(archive.read(info))


def _place(path: PurePosixPath, classes: Callable[[], dict[str, str]], split: Split) -> PurePosixPath:
    """Where an image of the archive belongs in the ImageFolder: `<class>/<file>`; some have it there already."""
    if len(path.parts) == 2:
        return path
    if len(path.parts) != 1 or split == "train":
        raise UserError(f"{FOLDERS[split]}/{path}: unexpected place in the archive; it is not ImageNet's layout")
    if path.stem not in classes():
        raise UserError(f"{SOLUTION} does not say which class {path.name} shows")
    return PurePosixPath(classes()[path.stem]) / path


def _read_solution(path: Path | zipfile.Path) -> dict[str, str]:
    """Return image id -> class."""
    try:
        # Spreadsheet programs put a byte-order mark at the start.
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
        classes = {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (KeyError, IndexError, AttributeError, UnicodeDecodeError, csv.Error, FileNotFoundError):
        raise UserError(
            f"{path}: expected the columns ImageId,PredictionString, which say what class a validation image shows"
        ) from None
    bad = [value for value in (*classes, *classes.values()) if not value or Path(value).name != value]
    if bad:
        raise UserError(f"{path}: '{bad[0]}' is not a plain name")
    return classes
