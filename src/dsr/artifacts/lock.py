"""The lock file: size and SHA-256 of every file at its first download, enforced at every later one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from dsr.artifacts.errors import ArtifactError, ContentError, problems
from dsr.artifacts.manifest import Artifact, Source
from dsr.base import files
from dsr.config.base import Section

log = logging.getLogger(__name__)


class Measure(Section):
    """What identifies a file's content."""

    size: int
    """Bytes."""
    sha256: str
    """Hex SHA-256."""


class Entry(Section):
    """One artifact at its first download."""

    source: Source
    """Where it came from."""
    revision: str | None
    """Commit of the source, where it has commits."""
    recorded: str
    """Time in UTC."""
    files: dict[str, Measure]
    """Every file as the publisher handed it out."""


class Lock(Section):
    """The content of a lock file."""

    version: Literal[1] = 1
    """Format of the file."""
    artifacts: dict[str, Entry] = Field(default_factory=dict)
    """Id -> what was recorded."""


def read(path: Path) -> Lock:
    """Read a lock file; one that does not exist yet is empty.

    Raises:
        ArtifactError: if it is damaged.
    """
    try:
        return Lock.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Lock()
    except ValidationError as error:
        raise ArtifactError(
            f"{path}: not a lock file ({problems(error)}). Restore it from version control, or remove it to record "
            "everything anew"
        ) from None


def pinned_revision(path: Path, identifier: str, source: Source) -> str | None:
    """Return the commit recorded for an artifact, unless the manifest names another source by now."""
    entry = read(path).artifacts.get(identifier)
    return entry.revision if entry is not None and entry.source == source else None


def measure(path: Path) -> Measure:
    """Read a file through and return its size and SHA-256."""
    size = path.stat().st_size
    if size > 1 << 30:
        log.info("Computing the SHA-256 of %s (%.1f GB)", path, size / 1e9)
    return Measure(size=size, sha256=files.sha256(path))


def verify(path: Path, identifier: str, artifact: Artifact, folder: Path, found: dict[str, Measure]) -> None:
    """Compare files with the manifest and with the lock file ``path``; those that neither knows pass.

    Args:
        path: the lock file.
        identifier: the artifact's id.
        artifact: the artifact.
        folder: where the files lie.
        found: name of the file in the manifest -> what it measures.

    Raises:
        ContentError: if a file is not the one that the manifest demands, or that was recorded.
    """
    recorded = read(path).artifacts.get(identifier)
    for file in artifact.files:
        now = found[file.name]
        for key in ("size", "sha256"):
            demanded = getattr(file, key)
            if demanded is not None and demanded != getattr(now, key):
                raise ContentError(
                    f"{identifier}: {folder / file.name} has {key} {getattr(now, key)}, the manifest demands "
                    f"{demanded}: it is damaged, or its publisher replaced it"
                )
        before = recorded.files.get(file.name) if recorded is not None else None
        if recorded is not None and before is not None and before != now:
            raise ContentError(
                f"{identifier}: {folder / file.name} has {now.size} bytes and sha256 {now.sha256}, but {path} recorded "
                f"{before.size} bytes and sha256 {before.sha256} on {recorded.recorded}. If its publisher replaced it "
                f"and you accept that, remove the entry '{identifier}' from {path} and run again"
            )


def record(path: Path, identifier: str, artifact: Artifact, revision: str | None, measures: dict[str, Measure]) -> None:
    """Record an artifact in the lock file unless it is there already."""
    with exclusive(path.with_name(f".{path.name}.guard")):
        lock = read(path)
        if identifier in lock.artifacts:
            return
        entry = Entry(
            source=artifact.source,
            revision=revision,
            recorded=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            files=measures,
        )
        # Sorted, so that the file does not depend on the order of downloads.
        artifacts = dict(sorted({**lock.artifacts, identifier: entry}.items()))
        files.write_json(path, json.loads(Lock(artifacts=artifacts).model_dump_json()))
    log.info("Recorded %s in %s", identifier, path)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the advisory lock ``path``, waiting for another process that has it; it ends with the process.

    The empty file stays: whoever removed it would let a waiting process and a new one in together.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            log.info("Waiting for another process that holds %s", path)
            fcntl.lockf(stream, fcntl.LOCK_EX)
        except OSError as error:
            log.warning("%s: no locks on this file system (%s); run one fetch at a time (--cores 1)", path, error)
        yield
