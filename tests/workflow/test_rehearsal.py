"""A rehearsal at its smallest: made inputs, a preemption of its own, its page, and what may not be done with it."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from .conftest import REHEARSAL, Checkout, copy_checkout

OVERLAY = "profiles/rehearsal/config-overlay.yaml"


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = copy_checkout(tmp_path_factory.mktemp("rehearsal"))
    # What the paper's results have already is not made.
    decoder = checkout.folder / "results/decoders/siglip2-b.safetensors"
    made = checkout.snakemake(
        "--cores", "2", "results/rehearsal/decoders/siglip2-b.safetensors", "--configfile", *REHEARSAL
    )
    assert made.returncode == 0, made.stdout[-5000:]
    decoder.parent.mkdir(parents=True)
    (checkout.folder / "results/rehearsal/decoders/siglip2-b.safetensors").rename(decoder)
    run = checkout.snakemake("--cores", "2", "rehearsal", "--configfile", *REHEARSAL)
    assert run.returncode == 0, run.stdout[-8000:]
    return checkout


def test_every_row_is_stopped_once_and_goes_on(rehearsed: Checkout) -> None:
    results = rehearsed.folder / "results/rehearsal"
    text = (results / "rehearsal.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| dit")]
    assert [cells[:2] for cells in lines] == [["dit-siglip2b-dsr", "2"]]
    for cells in lines:
        # Where a small state takes no time to save, its MB/s are not known.
        for column in (4, 5, 6, 8, 10, 11):
            assert float(cells[column].replace(",", "")) >= 0
    assert "NOT RESUMED" not in text
    assert "Made, with random weights: evaluator's network, siglip2-b." in text
    logs = [path.read_text(encoding="utf-8") for path in results.glob("rows/*/run-*/train-12.log")]
    assert all("the state is saved" in log and "Resumed at step" in log for log in logs)


def test_its_tables_say_what_they_are(rehearsed: Checkout) -> None:
    results = rehearsed.folder / "results/rehearsal"
    table = (results / "table1.md").read_text(encoding="utf-8")
    assert table.startswith("# REHEARSAL on made images")
    assert "No number here is comparable with a published one." in table
    assert (results / "figures/training.png").is_file()


def test_results_of_a_rehearsal_are_refused(rehearsed: Checkout, tmp_path: Path) -> None:
    rehearsed.refused({"results": "results/rehearsal"}, "results/rehearsal holds a rehearsal and no results")


def test_the_plan_uses_what_was_measured(rehearsed: Checkout) -> None:
    measured = rehearsed.folder / "results/rehearsal/throughput.csv"
    with measured.open(encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        # CPUs are not planned for.
        assert not [*reader]
        assert reader.fieldnames is not None
    line = dict.fromkeys(reader.fieldnames, "")
    line |= {"gpu": "B200 180GB", "stage": "train", "precision": "tf32", "batch": "128", "images_per_second": "999"}
    line |= {"gflops": "834.7", "code": "rehearsal", "source": "test"}
    kept = measured.read_text(encoding="utf-8")
    measured.write_text(",".join(line) + "\n" + ",".join(line.values()) + "\n", encoding="utf-8")
    run = rehearsed.snakemake("--cores", "1", "plan")
    measured.write_text(kept, encoding="utf-8")
    assert "Estimated for B200 180GB" in run.stdout
    assert "Speeds of a rehearsal on this cluster are used." in run.stdout
    assert re.search(r"dit-siglip2b-dsr +\| train +\|.*\| +999.0 \|.*measured, rehearsal on this cluster", run.stdout)


def test_the_papers_rows_are_planned_with_networks_of_full_size(fresh: Checkout) -> None:
    counts, text = fresh.plan("-p", "rehearsal", "--configfile", OVERLAY)
    assert (counts["made_encoder"], counts["made_decoder"], counts["train"], counts["sample"]) == (2, 2, 6, 6)
    assert text.count(" --preempt-once dsr.commands.train") == 6
    assert "fetch" not in counts
    assert " --preempt-once" not in fresh.plan("-p", "results/table1.md")[1]
