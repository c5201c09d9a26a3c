"""A rehearsal's plan, what may not be done with its folder, and what a plan takes from it.

`tests/slurm/scenario_rehearsal.py` runs one.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dsr.plan.throughput import PACKAGED

from .conftest import Checkout, copy_checkout

OVERLAY = "profiles/rehearsal/config-overlay.yaml"


@pytest.fixture
def rehearsed(tmp_path: Path) -> Checkout:
    """Return a checkout with what a rehearsal on a GPU leaves for those that come after it."""
    checkout = copy_checkout(tmp_path)
    results = checkout.folder / "results/rehearsal"
    (results / "data/raw").mkdir(parents=True)
    (results / "data/raw/REHEARSAL").touch()
    header, *_ = PACKAGED.read_text(encoding="utf-8").splitlines()
    line = "B200 180GB,train,dit-xl,36,siglip2-b,single,tf32,128,999,,834.7,rehearsal,test"
    (results / "throughput.csv").write_text(f"{header}\n{line}\n", encoding="utf-8")
    return checkout


def test_results_of_a_rehearsal_are_refused_and_the_plan_uses_what_was_measured(rehearsed: Checkout) -> None:
    rehearsed.refused({"results": "results/rehearsal"}, "results/rehearsal holds a rehearsal and no results")
    run = rehearsed.snakemake("--cores", "1", "plan")
    assert "Estimated for B200 180GB" in run.stdout
    assert "Speeds of a rehearsal on this cluster are used." in run.stdout
    assert re.search(r"dit-siglip2b-dsr +\| train +\|.*\| +999.0 \|.*measured, rehearsal on this cluster", run.stdout)


def test_the_papers_rows_are_planned_with_networks_of_full_size(fresh: Checkout) -> None:
    counts, text = fresh.plan("-p", "rehearsal", "--configfile", OVERLAY)
    assert (counts["made_encoder"], counts["made_decoder"], counts["train"], counts["sample"]) == (2, 2, 6, 6)
    assert text.count(" --preempt-once dsr.commands.train") == 6
    assert "fetch" not in counts
    assert " --preempt-once" not in fresh.plan("-p", "results/table1.md")[1]
