"""Small manifests for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

GRAPH = {"kind": "graph", "nodes": ["input", "pool_3"]}


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
    """Serialise a GraphDef of nodes of these names, with a large attribute in the last one."""

    def message(field: int, content: bytes) -> bytes:
        length, size = b"", len(content)
        while size > 0x7F:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([field << 3 | 2]) + length + bytes([size]) + content

    attributes = dict.fromkeys(names, b"") | {names[-1]: message(5, bytes(padding))}
    nodes = [message(1, message(1, name.encode()) + message(2, b"Op") + attributes[name]) for name in names]
    return b"".join(nodes) + bytes([2 << 3, 8])
