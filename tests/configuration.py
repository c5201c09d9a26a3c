"""The project's configuration, and changed ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from snakemake.utils import update_config

from dsr.analysis.maps import TokenMaps
from dsr.base.files import read_json, write_json
from dsr.config.load import Config, load
from dsr.config.specs import content
from dsr.report.entries import Entry

ROOT = Path(__file__).resolve().parents[1]
DEMO = "profiles/demo/config-overlay.yaml"


def merged(*overlays: str, **changes: Any) -> dict[str, Any]:
    """Return config.yaml with overlays and then changes merged into it, as Snakemake does."""
    content: dict[str, Any] = {}
    for name in ("config.yaml", *overlays):
        update_config(content, yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))
    update_config(content, changes)
    return content


def configuration(*overlays: str, **changes: Any) -> Config:
    """Return the validated configuration."""
    return load(merged(*overlays, **changes))


def record(config: Config, *entries: Entry) -> None:
    """Let the files of these entries record what the configuration asks for."""
    for path, spec in (item for one in entries for item in one.asked(config).items()):
        if path.suffix == ".npz":
            TokenMaps.load(path).save(path, spec)
        elif path.exists():
            write_json(path, read_json(path) | {"spec": content(spec)})


def scored(
    path: Path, fid: float, row: str = "dit-siglip2b", epoch: int = 80, *, constant: int = 0, **fields: Any
) -> Entry:
    """Write scores as the evaluator does, and return their entry."""
    values: dict[str, Any] = {"fid": fid, "sfid": 6.0, "inception_score": 155.0, "precision": 0.69, "recall": 0.561}
    values |= {"precision_f32": 0.691, "recall_f32": 0.5615, "images": 50000}
    values["reference"] = {"name": "reference-validation", "images": 50000, "sha256": "0"}
    values["samples"] = {"sha256": "1", "constant_images": constant}
    write_json(path, values)
    return Entry(row=row, epoch=epoch, metrics=path, **fields)
