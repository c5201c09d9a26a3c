"""What reruns and what does not, shown on a workflow that has really run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from .conftest import Checkout

ROW = "dit-siglip2b-dsr"
METRICS = f"results/demo/rows/{ROW}/epoch-1/unguided-seed0/metrics.json"


def test_everything_was_made(finished: Checkout) -> None:
    results = finished.folder / "results/demo"
    table = (results / "table1.md").read_text(encoding="utf-8")
    assert ROW in table
    assert "not run" not in table
    metrics = json.loads((finished.folder / METRICS).read_text(encoding="utf-8"))
    assert metrics["images"] == 20
    assert (results / "provenance.json").is_file()


def test_second_run_has_nothing_to_do(finished: Checkout) -> None:
    assert "Nothing to be done" in finished.tiny().stdout


def test_removed_metrics_are_made_again_and_nothing_else(finished: Checkout) -> None:
    path = finished.folder / METRICS
    kept = path.with_suffix(".kept")
    shutil.move(path, kept)
    try:
        counts = finished.planned("results/demo/table1.md")
        assert counts.pop("evaluate") == 1
        assert set(counts) <= {"table", "total"}
    finally:
        shutil.move(kept, path)


@pytest.mark.parametrize("name", ["src/dsr/training/loop.py", "rules/train.smk"])
def test_a_comment_retrains_nothing(finished: Checkout, name: str) -> None:
    path = finished.folder / name
    path.write_text(path.read_text(encoding="utf-8") + "\n# A comment.\n", encoding="utf-8")
    assert "Nothing to be done" in finished.tiny("-n").stdout


def test_another_learning_rate_retrains_one_row_from_the_start(finished: Checkout, tmp_path: Path) -> None:
    base = yaml.safe_load((finished.folder / "config.yaml").read_text(encoding="utf-8"))
    demo = yaml.safe_load((finished.folder / "profiles/demo/config-overlay.yaml").read_text(encoding="utf-8"))
    recipe = {**base["recipes"]["dit"], **demo["recipes"]["dit"], "batch": 32, "ema": [0.5], "lr": 0.0123}
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        yaml.safe_dump({"recipes": {"fast": recipe}, "rows": {ROW: {"recipe": "fast"}}}), encoding="utf-8"
    )
    counts = finished.planned("results/demo/table1.md", overlays=(str(overlay),))
    assert counts["train"] == counts["sample"] == counts["evaluate"] == 1

    weights = f"results/demo/rows/{ROW}/epoch-1/ema.safetensors"
    run = finished.tiny(weights, overlays=(str(overlay),))
    assert run.returncode == 0, run.stdout
    log = (finished.folder / f"results/demo/logs/train/{ROW}-1.log").read_text(encoding="utf-8")
    assert "the recipe changed, so training starts from the beginning" in log
    assert "recipe.lr" in log
    assert "0.0123" in log
