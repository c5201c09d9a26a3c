"""The project's own configuration, and scores as the evaluator writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dsr.base.files import write_json
from dsr.config.load import Config, load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def raw() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def config(raw: dict[str, Any]) -> Config:
    return load(raw)


def write_metrics(path: Path, fid: float, constant: int = 0) -> Path:
    values: dict[str, Any] = {"fid": fid, "sfid": 6.0, "inception_score": 155.0, "precision": 0.69, "recall": 0.561}
    values |= {"precision_f32": 0.691, "recall_f32": 0.5615, "images": 50000}
    values["reference"] = {"name": "reference-validation", "images": 50000, "sha256": "0"}
    values["samples"] = {"sha256": "1", "constant_images": constant}
    write_json(path, values)
    return path
