"""`snakemake plan`: on a fresh clone, without data, GPU or the jobs' environments."""

from __future__ import annotations

import re

from dsr.artifacts import manifest
from dsr.plan import throughput
from dsr.plan.costs import sample_sets, until
from tests.configuration import configuration

from .conftest import ROOT, Checkout


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


OVERLAY = "profiles/reference-weights/config-overlay.yaml"
FETCHED = [name for name, row in configuration(OVERLAY).rows.items() if row.weights]
PAIR = ["dit-siglip2b", "dit-siglip2b-dsr"]
BUDGETS = {
    "reference_weights": (800, FETCHED),
    "results/tables/dit-b.md": (80, ["dit-b-siglip2b", "dit-b-siglip2b-dsr"]),
    "results/tables/scaling.md": (80, PAIR),
    "results/rows/dit-siglip2b-dsr/table1.md": (800, PAIR[1:]),
    "": (800, [*configuration().rows]),
}
"""Target of a documented command -> the epoch that it trains to, and its rows."""


def test_documented_gpu_hours_are_the_plans() -> None:
    readme, planning = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/planning.md"))
    lines = re.findall(
        r"^\| [^|]+ \| ([\d,.]+) \| `snakemake --(?:cores all|profile slurm) ?(\S*?)(?: --configfile (\S+))?` \|$",
        planning, re.MULTILINE,
    )  # fmt: skip
    assert [target for _, target, _ in lines] == [*BUDGETS]
    measurements = throughput.read()
    for hours, target, overlay in lines:
        epoch, rows = BUDGETS[target]
        config = configuration(*filter(None, [overlay]))
        known = until(config, manifest.load(), measurements, throughput.gpu_of(measurements, None), epoch)
        total = sum(known[row] for row in rows)
        assert hours == (f"{total:,.0f}" if total > 10 else f"{total:.1f}")
        assert f"\n| {hours} | " in readme
