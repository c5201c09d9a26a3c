"""What a file records about how it was made, read without PyTorch: the workflow compares it before anything runs."""

import json
import zipfile
from pathlib import Path
from typing import Any

from dsr.base.errors import UserError

KEY = "about"
"""Where a file has its record: the one key of a safetensors file's metadata (several come in random order), or the
member ``about.json`` of an npz file. A JSON file is its own record."""
MEMBER = f"{KEY}.json"


def read_record(path: Path) -> dict[str, Any]:
    """Return what a JSON, safetensors or npz file records; of a safetensors file of others, its metadata.

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
