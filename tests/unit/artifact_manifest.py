"""Small manifests for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dsr.artifacts import transfer

GRAPH = {"kind": "graph", "names": ["input", "pool_3"]}


def write(path: Path, source: dict[str, Any], check: dict[str, Any], *names: str, **known: Any) -> Path:
    """Write a manifest with one artifact `thing`; ``known`` may give size, sha256 and accept."""
    entry = {
        "about": "Test",
        "source": source,
        "files": [{"name": name, "size": known.get("size"), "sha256": known.get("sha256")} for name in names],
        "licence": {"name": "Test licence", "accept": known.get("accept")},
        "check": check,
    }
    path.write_text(yaml.safe_dump({"artifacts": {"thing": entry}}))
    return path


def graph(*names: str, padding: int = 0) -> bytes:
    """Return what passes for a graph with nodes of these names."""
    return " ".join(names).encode() + bytes(padding)


def be_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients give up soon."""
    for name, value in (("ATTEMPTS", 3), ("FIRST_WAIT", 0.01), ("LONGEST_WAIT", 0.5)):
        monkeypatch.setattr(transfer, name, value)
