"""`snakemake plan`: on a fresh clone, without data, GPU or the jobs' environments."""

from __future__ import annotations

import re

from dsr.plan.costs import sample_sets
from tests.configuration import configuration

from .conftest import Checkout


def test_the_paper_is_planned_and_shown(fresh: Checkout) -> None:
    run = fresh.snakemake("--cores", "1", "plan")
    assert run.returncode == 0, run.stdout
    text = (fresh.folder / "results/plan.md").read_text(encoding="utf-8")
    assert text in run.stdout
    assert re.search(r"\| dit-siglip2b-dsr +\| train +\| 1,024,819,200 \|", text)


def test_as_many_sets_are_counted_as_are_sampled(fresh: Checkout) -> None:
    config = configuration()
    counts, _ = fresh.plan("all")
    sampled = sum(count for rule, count in counts.items() if rule.startswith("sample"))
    assert sampled == sum(len(sample_sets(config, row)) for row in config.rows)
