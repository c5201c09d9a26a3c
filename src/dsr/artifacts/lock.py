"""The lock file: size and SHA-256 of every file at its first download, enforced at every later one."""

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from dsr.artifacts.manifest import Source
from dsr.base import files
from dsr.base.errors import UserError, first_problem
from dsr.config.base import Section

log = logging.getLogger(__name__)


class Measure(Section):
    """What identifies a file's content."""

    size: int
    """Bytes."""
    sha256: str


class Entry(Section):
    """One artifact at its first download."""

    source: Source
    revision: str | None
    """Commit of the source, where it has commits."""
    recorded: str
    """Time in UTC."""
    files: dict[str, Measure]
    """Every file as the publisher handed it out."""


class Lock(Section):
    """The content of a lock file."""

    version: Literal[1] = 1
    artifacts: dict[str, Entry] = Field(default_factory=dict)


def read(path: Path) -> Lock:
    """Read a lock file; one that does not exist yet is empty, and a damaged one a UserError."""
    try:
        return Lock.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Lock()
    except ValidationError as error:
        raise UserError(
            f"{path}: not a lock file ({first_problem(error)}). Restore it from version control, or remove it to "
            "record everything anew"
        ) from None


def measure(
    path: Path, identifier: str, places: dict[str, Path], recorded: Entry | None, stated: dict[str, str]
) -> dict[str, Measure]:
    """Measure the files that lie in ``places``, by name, and compare them with what publisher and lock file say.

    The lock file ``path`` has ``recorded`` the artifact; the publisher has ``stated`` the SHA-256 of files, by name.

    Raises:
        UserError: if a file is another one than any of them says.
    """
    measures = {}
    for name, place in places.items():
        size = place.stat().st_size
        log.info("Computing the SHA-256 of %s (%.1f GB)", place, size / 1e9)
        measures[name] = now = Measure(size=size, sha256=files.sha256(place))
        before = recorded.files.get(name) if recorded else None
        for authority, expected in (
            ("its publisher states", stated.get(name)),
            (f"{path} recorded", before and before.sha256),
        ):
            if expected not in (None, now.sha256):
                raise UserError(
                    f"{identifier}: {place} has {size} bytes and sha256 {now.sha256}, but {authority} sha256 "
                    f"{expected}: it is damaged, or its publisher replaced it; if you accept that, remove the entry "
                    f"'{identifier}' from {path}"
                )
    return measures


def record(path: Path, identifier: str, source: Source, revision: str | None, measures: dict[str, Measure]) -> None:
    """Record an artifact in the lock file unless it is there already."""
    with exclusive(path.with_name(f".{path.name}.guard"), warn=False):
        lock = read(path)
        if identifier in lock.artifacts:
            return
        entry = Entry(
            source=source,
            revision=revision,
            recorded=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            files=measures,
        )
        # Sorted, so that the file does not depend on the order of downloads.
        artifacts = dict(sorted({**lock.artifacts, identifier: entry}.items()))
        files.write_json(path, Lock(artifacts=artifacts).model_dump(mode="json"))
    log.info("Recorded %s in %s", identifier, path)


@contextlib.contextmanager
def exclusive(path: Path, warn: bool = True) -> Iterator[None]:
    """Hold the advisory lock ``path``, waiting for another process that has it; it ends with the process.

    Where the file system has no locks, nothing is held, and ``warn`` says so. The empty file stays: whoever removed it
    would let a waiting process and a new one in together.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            log.info("Waiting for another process that holds %s", path)
            fcntl.lockf(stream, fcntl.LOCK_EX)
        except OSError as error:
            level = logging.WARNING if warn else logging.DEBUG
            log.log(level, "%s: no locks on this file system (%s); run one fetch at a time (--cores 1)", path, error)
        yield
