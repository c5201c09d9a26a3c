"""The last step of every artifact: it appears under its final name, whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from dsr.artifacts.errors import ArtifactError
from dsr.base import files


def file(part: Path, output: Path) -> None:
    """Move a complete file to ``output`` (same file system), replacing what is there."""
    with files.atomic(output) as temporary:
        part.replace(temporary)


def folder(staging: Path, output: Path) -> None:
    """Move a complete folder to ``output`` (same file system).

    Raises:
        ArtifactError: if something other than a link or an empty folder is there.
    """
    _make_way(output)
    output.unlink(missing_ok=True)
    staging.replace(output)


def link(target: Path, output: Path) -> None:
    """Make ``output`` a symbolic link to ``target``, replacing a link that is there.

    Raises:
        ArtifactError: if something other than a link or an empty folder is there.
    """
    _make_way(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.absolute())
    temporary.replace(output)


def _make_way(output: Path) -> None:
    if output.is_symlink():
        return
    if output.is_dir() and not os.listdir(output):
        output.rmdir()
    elif output.exists():
        raise ArtifactError(f"{output}: is in the way and will not be overwritten; remove it and run the command again")
