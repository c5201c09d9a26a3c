"""Files of named tensors with what is known about them; equal content gives equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dsr.base import files
from dsr.base.errors import UserError

KEY = "about"
"""The one key of the metadata: safetensors writes several in random order."""


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a safetensors file, atomically."""
    with files.atomic(path) as temporary:
        save_file(
            {name: value.detach().contiguous() for name, value in tensors.items()},
            temporary,
            metadata={KEY: json.dumps(about, sort_keys=True)},
        )


def read_about(path: Path) -> dict[str, Any]:
    """Return what is known about a safetensors file; of one that was not written here, its metadata.

    Raises:
        UserError: if the file is missing or is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    return json.loads(found[KEY]) if KEY in found else dict(found)
