"""Extraction from zip and tar archives that never writes outside its folder."""

from __future__ import annotations

import contextlib
import errno
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from dsr.artifacts.errors import ContentError


@dataclass(frozen=True)
class Member:
    """A regular file in an archive."""

    path: PurePosixPath
    """Relative path, without any way out of the folder."""
    size: int
    """Bytes of the content."""
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    """Opens the content for reading."""


def zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    """Yield the files of a zip in its order.

    Raises:
        ContentError: at a member that points outside or is a link.
    """
    for info in archive.infolist():
        path = _relative(str(archive.filename), info.filename)
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ContentError(
                f"{archive.filename}: '{info.filename}' is a link; refusing to extract from this archive"
            )
        if not info.is_dir():
            yield Member(path, info.file_size, partial(archive.open, info))


def tar_members(name: str, archive: tarfile.TarFile) -> Iterator[Member]:
    """Yield the files of a tar in its order; each must be read before the next is asked for.

    Raises:
        ContentError: at a member that points outside or is neither a file nor a folder.
    """
    for info in archive:
        path = _relative(name, info.name)
        if info.isdir():
            continue
        if not info.isfile():
            raise ContentError(f"{name}: '{info.name}' is not a plain file; refusing to extract from this archive")
        yield Member(path, info.size, partial(_open_tar, archive, info))


def extract(member: Member, target: Path, scratch: Path) -> None:
    """Write a member to ``target`` by way of ``scratch``; one that is there in full size is kept.

    The single file is not synced to disk: what is published is the folder, after all of it has been counted.

    Raises:
        ContentError: if the content does not match its checksum or ends early.
    """
    if target.exists() and target.stat().st_size == member.size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with readable(f"{member.path} in the archive"), member.open() as source, scratch.open("wb") as stream:
        shutil.copyfileobj(source, stream, 1 << 20)
    scratch.replace(target)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn what the readers of archives raise for bytes that they cannot make sense of into one clear error.

    Raises:
        ContentError: naming what cannot be read.
    """
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ContentError(f"{name}: damaged ({error})") from error
    except OSError as error:
        # A place outside the file; trouble with the disk has other numbers.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise ContentError(f"{name}: damaged ({error})") from error
    except RuntimeError as error:
        # Encryption, and compression that Python does not know.
        raise ContentError(f"{name}: cannot be read ({error})") from error


def _open_tar(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(info)
    assert stream is not None, "only plain files are opened"
    return stream


def _relative(archive: str, name: str) -> PurePosixPath:
    """Return a member's path, refusing every way out of the folder that it is extracted to."""
    path = PurePosixPath(name)
    if (
        not name
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or "\0" in name
        or ":" in "".join(path.parts[:1])
    ):
        raise ContentError(f"{archive}: '{name}' points outside its folder; refusing to extract from this archive")
    return path
