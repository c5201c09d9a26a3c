"""What one whole run on a folder of photographs makes, what reruns after it and what does not, and what is scored
besides.

The way of docs/own-images.md without a GPU. All of it in one file, because one process runs a file's tests, and the run
takes minutes; tests/conftest.py puts it first.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from dsr.base import command
from dsr.plan.own_images import OwnImages, write_overlay
from dsr.sampling.draw import Grid, draw
from tests.configuration import DEMO, ROOT, merged

from .conftest import Checkout, copy_checkout, job_counts

RESULTS = "results/photos"
SWEPT = f"{RESULTS}/rows/dsr/epoch-1"
METRICS = f"{SWEPT}/unguided-seed0/metrics.json"
FIGURES = ("fid", "samples", "training", "reconstruction", "averages-dsr", "denoiser-norms")
TARGETS = (
    *(f"{RESULTS}/{name}.md" for name in ("table1", "provenance")),
    *(f"{RESULTS}/tables/{name}.md" for name in ("epochs", "reconstruction", "backbones")),
    *(f"{RESULTS}/figures/{name}.png" for name in (*FIGURES, "times-dsr")),
)
"""One of each kind; `all` has them of every kind of map."""


def overlay(folder: Path, content: dict[str, object]) -> tuple[str, ...]:
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return (str(path),)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Checkout:
    """Return a checkout in which the workflow has run to the end; its path has a blank."""
    checkout = copy_checkout(tmp_path_factory.mktemp("finished run"))
    photos = checkout.folder / "photos.yaml"
    write_overlay(OwnImages(photographs, photos, gpus=0, config=(ROOT / "config.yaml", ROOT / DEMO)))
    checkout = dataclasses.replace(checkout, overlays=(DEMO, str(photos), "tests/workflow/photos.yaml"))
    run = checkout.tiny(*TARGETS)
    assert run.returncode == 0, run.stdout[-8000:]
    return checkout


def test_everything_was_made(finished: Checkout) -> None:
    results = finished.folder / RESULTS
    table = (results / "table1.md").read_text(encoding="utf-8")
    assert "| dsr " in table
    assert "not run" not in table
    assert "This is a demo, with small models in place of the SigLIP2 encoders" in table
    metrics = json.loads((finished.folder / METRICS).read_text(encoding="utf-8"))
    assert metrics["images"] == 20
    assert (results / "provenance.json").is_file()


def test_the_report_is_one_page(finished: Checkout) -> None:
    run = finished.tiny(*TARGETS, "--report", f"{RESULTS}/report.html")
    assert run.returncode == 0, run.stdout[-3000:]
    assert (finished.folder / RESULTS / "report.html").stat().st_size > 1e6


def test_second_run_has_nothing_to_do(finished: Checkout) -> None:
    assert "Nothing to be done" in finished.tiny("-n", *TARGETS).stdout


def test_unfinished_figures_are_drawn_again_while_rows_are_trained(finished: Checkout) -> None:
    figure, drawn = f"{RESULTS}/figures/training-partial.png", {"figure_partial_training": 1}
    assert job_counts(finished.tiny(figure).stdout) == drawn
    assert finished.planned(figure) == {}
    os.utime(next((finished.folder / RESULTS).glob("rows/dsr/run-*/metrics.jsonl")))
    assert finished.planned(figure) == drawn


def test_a_model_has_a_card_and_draws(finished: Checkout, tmp_path: Path) -> None:
    folder = f"{RESULTS}/models/dsr-1"
    assert finished.planned("model_card") == {"model_folder": 2, "card": 2, "model_card": 1}
    run = finished.tiny(f"{folder}/README.md")
    assert run.returncode == 0, run.stdout[-5000:]
    card = (finished.folder / folder / "README.md").read_text(encoding="utf-8")
    _, about, text = card.split("---\n", 2)
    # Without guidance, and with the one that the sweep chose.
    result, _ = yaml.safe_load(about)["model-index"][0]["results"]
    fid = json.loads((finished.folder / METRICS).read_text(encoding="utf-8"))["fid"]
    assert result["metrics"][0] == {"type": "fid", "value": pytest.approx(fid, abs=0.005)}
    for part in (
        "a dit-dh-xl with 4 diffusion registers",
        "| Optimizer steps | 9, 1 epochs of",
        "| Commit | ",
        "torch ",
    ):
        assert part in text

    index, grid = finished.folder / RESULTS / "data/prepared/train/index.npz", tmp_path / "grid.png"
    model = str(finished.folder / folder)
    draw(Grid(model, ("a temple", "flower"), grid, count=3, names=index, device="cpu"))
    with Image.open(grid) as image:
        assert image.size == (3 * 36 - 4, 2 * 48)


@pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")
def test_the_example_of_every_command_is_complete(finished: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.folder)
    ran = []

    def parsed_only(step: Callable[..., None]) -> Callable[..., Callable[[], None]]:
        return functools.wraps(step)(lambda **arguments: lambda: ran.append(step))

    monkeypatch.setattr(command, "_deferred", parsed_only)
    text = (finished.folder / "src/dsr/commands/examples.sh").read_text(encoding="utf-8")
    text = text.replace("epoch-16", "epoch-1").replace("dsr.commands.launch --processes 2 ", "")
    # Of the encoder and the rows that this run has.
    for demo, own in {"dit-siglip2b-dsr": "dsr", "dit-siglip2b": "baseline", "siglip2-so400m": "siglip2-b"}.items():
        text = text.replace(demo, own)
    text = text.replace("results/demo", RESULTS)
    for example in text.split("\n\n")[1:]:
        # As a shell reads it: quotes, lines that go on, patterns of file names.
        words = f"printf '%s\\0' {example.partition(' -m ')[2]}"
        said = subprocess.run(["bash", "-c", words], stdout=subprocess.PIPE, text=True, check=True).stdout
        monkeypatch.setattr(sys, "argv", said.split("\0")[:-1])
        runpy.run_module(sys.argv[0], run_name="__main__")
    modules = {path.stem for path in (ROOT / "src/dsr/commands").glob("[a-z]*.py")}
    # A launcher's example launches `statistics`.
    assert len(ran) == len(modules)
    assert modules == {*re.findall(r"dsr\.commands\.(\w+) ", text), "launch"}


def test_a_finished_run_is_done(finished: Checkout) -> None:
    shown = finished.status(RESULTS)
    assert shown.returncode == 0, shown.stdout
    rows = [line.split("|") for line in shown.stdout.splitlines() if line.startswith(("| baseline", "| dsr"))]
    assert len(rows) == 2
    for cells in rows:
        _, _, epoch, speed, to_go, loss, reported, checkpoint, restarts, scored, *_ = [cell.strip() for cell in cells]
        assert (epoch, to_go, restarts) == ("1.0/1", "done", "0")
        assert float(speed) > 0
        assert float(loss) > 0
        assert reported.endswith("ago")
        assert checkpoint.endswith("ago")
        done, planned = scored.split("/")
        assert done == planned


def test_removed_metrics_are_made_again_and_nothing_else(finished: Checkout) -> None:
    path = finished.folder / METRICS
    kept = path.with_suffix(".kept")
    shutil.move(path, kept)
    try:
        counts = finished.planned(f"{RESULTS}/table1.md")
        assert counts.pop("evaluate") == 1
        assert set(counts) <= {"table", "total"}
    finally:
        shutil.move(kept, path)


def test_comments_retrain_nothing(finished: Checkout) -> None:
    for name in ("src/dsr/training/loop.py", "rules/train.smk"):
        path = finished.folder / name
        path.write_text(path.read_text(encoding="utf-8") + "\n# A comment.\n", encoding="utf-8")
    run = finished.tiny("-n", *TARGETS)
    assert run.returncode == 0, run.stdout
    # Metrics that were missing in a dry run had been noted for the table.
    assert set(job_counts(run.stdout)) <= {"table", "provenance"}


def test_changed_settings_are_noticed_without_the_metadata_of_snakemake(finished: Checkout, tmp_path: Path) -> None:
    shutil.move(finished.folder / ".snakemake/metadata", tmp_path)
    steps, rate = ({"sampling": {"steps": 4}}, {"recipes": {"dit-dh": {"lr": 0.01}}})
    run = finished.tiny("-n", *TARGETS, overlays=overlay(tmp_path, steps))
    assert "has other settings (steps: 3 -> 4)" in run.stdout
    counts = job_counts(run.stdout)
    assert counts["sample"] == counts["evaluate"] == 6
    assert "train" not in counts
    assert finished.planned(*TARGETS, overlays=overlay(tmp_path, rate))["train"] == 1
    # Settings that came back cost nothing but tables and figures.
    assert not {"train", "sample", "evaluate", "statistics", "denoiser_maps"} & set(finished.planned(*TARGETS))


def test_another_learning_rate_retrains_one_row_from_the_start(finished: Checkout, tmp_path: Path) -> None:
    recipe = merged(DEMO)["recipes"]["dit"] | {"batch": 16, "ema": [0.5], "lr": 0.0123}
    files = overlay(tmp_path, {"recipes": {"fast": recipe}, "rows": {"dsr": {"recipe": "fast"}}})
    counts = finished.planned(f"{RESULTS}/table1.md", overlays=files)
    # Without guidance, two that are tried, and the chosen one.
    assert (counts["train"], counts["sample"], counts["evaluate"]) == (1, 4, 4)


def test_a_guidance_setting_was_chosen_and_drawn_in_full(finished: Checkout) -> None:
    folder = finished.folder / SWEPT
    chosen, tried = (json.loads((folder / name).read_text()) for name in ("guidance.json", "sweep.json"))
    assert len(tried) == 2
    assert {attempt["images"] for attempt in tried} == {10}
    assert tried[0]["guidance"] == chosen
    assert tried[0]["fid"] <= tried[1]["fid"]
    drawn = json.loads((folder / "chosen-seed0/samples.json").read_text())
    # Values at their defaults are not recorded.
    assert chosen | drawn["guidance"] == chosen
    assert drawn["spec"]["guidance"] is None
    assert drawn["images"] == 20
    assert "chosen: scale 1.5 for t in" in (finished.folder / RESULTS / "table1.md").read_text(encoding="utf-8")


def test_every_average_of_a_recipe_was_scored(finished: Checkout) -> None:
    metrics = [finished.folder / SWEPT / name for name in ("unguided-seed0", "ema-0.9/unguided-seed0")]
    first, second = (json.loads((folder / "metrics.json").read_text())["fid"] for folder in metrics)
    assert first != second
    assert (finished.folder / RESULTS / "figures/averages-dsr.png").is_file()


def test_another_reference_is_in_every_format_and_in_the_time(finished: Checkout, tmp_path: Path) -> None:
    files = overlay(tmp_path, {"evaluation": {"references": ["validation", "train"]}})
    table = f"{RESULTS}/rows/baseline/table1"
    run = finished.tiny(f"{table}.md", overlays=files)
    assert run.returncode == 0, run.stdout[-8000:]
    assert job_counts(run.stdout) == {"reference": 1, "evaluate_again": 1, "row_table": 1}
    text, latex = ((finished.folder / f"{table}.{kind}").read_text(encoding="utf-8") for kind in ("md", "tex"))
    assert "## References" in text
    assert latex.count(r"\begin{table}") == 2
    with (finished.folder / f"{table}.csv").open(encoding="utf-8") as stream:
        line = next(csv.DictReader(stream))
    scores = finished.folder / RESULTS / "rows/baseline/epoch-1/unguided-seed0/metrics-train.json"
    assert abs(float(line["fid_train"]) - json.loads(scores.read_text())["fid"]) < 1e-3

    record = finished.tiny("-n", "-p", f"{RESULTS}/provenance.json", overlays=files).stdout
    assert '"evaluate/baseline-1-unguided-seed0-train"' in record


def test_published_weights_are_sampled_and_scored_without_training(finished: Checkout, tmp_path: Path) -> None:
    results = finished.folder / RESULTS
    torch.save(load_file(results / "rows/baseline/epoch-1/ema.safetensors"), tmp_path / "denoiser.pt")
    weights = {"artifact": "denoiser-own", "epoch": 1, "ema": 0.5}
    row = {"encoder": "siglip2-b", "ttr": "none", "denoiser": "dit-xl", "registers": 0, "weights": weights}
    change = {
        "artifacts": {"denoiser-own": str(tmp_path / "denoiser.pt")},
        "rows": {"reference": row},
        "tables": {"reference-weights": {"title": "fetched weights", "rows": ["reference"]}},
        "figures": {"rows": ["reference"]},
    }
    files, table = overlay(tmp_path, change), "tables/reference-weights.md"
    jobs = {"fetch_weights": 1, "sample": 1, "evaluate": 1, "table_reference-weights": 1}
    looked_at = {"denoiser_maps": 1, "figure_denoiser": 4, "figure_times": 1, "figure_samples": 1}
    assert finished.planned("reference_weights", overlays=files) == jobs | looked_at | {"reference_weights": 1}
    run = finished.tiny(f"{RESULTS}/{table}", overlays=files)
    assert run.returncode == 0, run.stdout[-8000:]
    assert job_counts(run.stdout) == jobs
    ours, theirs = (
        (results / f"rows/{name}/epoch-1/unguided-seed0/samples.npz").read_bytes() for name in ("baseline", "reference")
    )
    assert ours == theirs
    assert "weights denoiser-own, not trained here" in (results / table).read_text()
