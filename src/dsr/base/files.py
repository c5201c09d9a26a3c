"""Atomic file writes, records, hashes and append-only lines: every file this project writes goes through here."""

import contextlib
import hashlib
import json
import os
import re
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsr.base.errors import UserError

KEY = "about"
"""Where a file records how it was made: the one key of a safetensors file's metadata (several come in random order), or
the member ``about.json`` of an npz file. A JSON file is its own record."""
MEMBER = f"{KEY}.json"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let what the system refuses be an OSError that names ``path``, where it names no file or a temporary one."""
    try:
        yield
    except Exception as error:
        refused = _refused(error)
        if refused is None or refused.errno is None:
            raise
        if not refused.filename or Path(os.fsdecode(refused.filename)).name.startswith(f".{path.name}."):
            refused.filename = str(path)
        raise refused from None


def _refused(error: Exception) -> OSError | None:
    """What the system said, of which PyTorch makes a RuntimeError and Rust's libraries a text."""
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        return error.__context__
    number = None if isinstance(error, OSError | ValueError) else re.search(r"\(os error (\d+)\)", str(error))
    if number:
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return error if isinstance(error, OSError) else None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success it is fsynced and renamed, on error removed.

    A reader therefore sees the old content or the new one, never a part of it.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{path.suffix}")
        try:
            # The rights that others have to new files; safetensors would leave its files to their owner alone.
            temporary.touch()
            rights = temporary.stat().st_mode
            yield temporary
            if temporary.stat().st_mode != rights:
                temporary.chmod(rights)
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Make sure that a file or folder can be written there, before anything is computed for it.

    Raises:
        OSError: as writing would.
    """
    with naming(path):
        # A link to a folder is replaced, and what it leads to is somebody else's.
        folder = path if path.is_dir() and not path.is_symlink() else path.parent
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(prefix=f".{path.name}.", dir=folder).close()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; one that is damaged or something else is a UserError."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); it is damaged or another file, make it again") from None


def append_json_line(path: Path, entry: dict[str, Any]) -> None:
    """Append one JSON object as one line, which begins anew where a crash cut off the line before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), path.open("a+b") as stream:
        stream.seek(max(stream.tell() - 1, 0))
        separator = b"" if stream.read() in (b"", b"\n") else b"\n"
        stream.write(separator + json.dumps(entry).encode() + b"\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; lines that a crash cut off are skipped."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries


def read_record(path: Path) -> dict[str, Any]:
    """Return what a JSON, safetensors or npz file records; of a safetensors file of others, its metadata.

    Only the header is read, and without PyTorch: the workflow compares it before anything runs.

    Raises:
        UserError: if the file is missing or damaged.
    """
    readers = {".json": _json, ".safetensors": _safetensors, ".npz": _npz}
    try:
        return readers[path.suffix](path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable {path.suffix[1:]} file ({error}); make it again") from None


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _safetensors(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError("its header is cut off")
        found: dict[str, str] = json.loads(stream.read(size)).get("__metadata__", {})
    return json.loads(found[KEY]) if KEY in found else dict(found)


def _npz(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(MEMBER)) if MEMBER in archive.namelist() else {}


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
