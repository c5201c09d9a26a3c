"""What the profiles' rows are, what Snakemake would run for them, what it costs, and how it is rehearsed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dsr.analysis.cost import denoiser_cost
from dsr.artifacts import manifest
from dsr.plan import throughput
from dsr.plan.costs import sample_sets, until
from dsr.report.published import Published
from tests.configuration import configuration

from .conftest import ROOT, Checkout, copy_checkout

ABLATIONS, EPOCHS, REFERENCES, REHEARSAL = (
    f"profiles/{name}/config-overlay.yaml" for name in ("ablations", "epochs", "reference-weights", "rehearsal")
)


def test_ablations_are_the_rows_of_the_published_tables() -> None:
    tables = ("encoder-registers", "diffusion-registers", "scaling")
    published = {line["row"] for table in tables for line in Published().lines(table)}
    assert published <= set(configuration(ABLATIONS).rows) == published | set(configuration().rows)


def test_the_small_denoisers_count_as_many_gflops_as_the_papers() -> None:
    config, published = configuration(ABLATIONS), Published()
    for row in config.tables["scaling"].rows:
        assert denoiser_cost(config.model(row)).flops / 1e9 == pytest.approx(
            published.values("scaling", row, 80, "unguided")["gflops"], abs=0.05
        )


def test_ablations_find_or_compute_what_was_not_released(fresh: Checkout) -> None:
    rows = [row for row in configuration(ABLATIONS).rows if row not in configuration().rows]
    targets = [f"results/rows/{row}/epoch-80/unguided-seed0/metrics.json" for row in rows]
    counts, _ = fresh.plan(*targets, "--configfile", ABLATIONS)
    assert len(rows) == counts["sample"] == counts["evaluate"] == 11
    assert counts["train"] == 2 * 11  # by way of epoch 40
    # SigLIP2-B and its single pass, So400M's recursive one; nobody released So400M's single pass, or DINOv2-B's.
    assert (counts["fetch_statistics"], counts["released_neurons"]) == (3, 2)
    assert (counts["statistics"], counts["discover_neurons"]) == (2, 1)


def test_the_four_models_are_drawn_without_training_beyond_epoch_80(fresh: Checkout) -> None:
    overlays = (ABLATIONS, "profiles/ablations/figures-overlay.yaml")
    counts, text = fresh.plan("denoiser_figures", "--configfile", *overlays)
    assert (counts["train"], counts["denoiser_maps"], counts["figure_times"], counts["figure_denoiser"]) == (8, 4, 4, 4)
    assert "epoch-800" not in text


def test_the_curve_of_fid_scores_two_rows_at_the_epochs_of_the_chart(fresh: Checkout) -> None:
    counts, _ = fresh.plan("results/tables/epochs.md", "results/figures/fid.png", "--configfile", EPOCHS)
    assert counts["train"] == counts["sample"] == counts["evaluate"] == 2 * 8
    assert [*configuration(EPOCHS).evaluation.epochs] == sorted({line["epochs"] for line in Published().lines("chart")})


def test_a_decoder_that_is_there_is_used_and_not_fetched(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    decoder = checkout.folder / "results/decoders/dinov2-b-registers.safetensors"
    decoder.parent.mkdir(parents=True)
    decoder.write_bytes(b"a user's")
    counts, _ = checkout.plan("results/rows/dit-dinov2b/table1.md", "--configfile", ABLATIONS)
    assert "fetch_decoder" not in counts
    assert counts["sample"] == 3


def test_as_many_sets_are_counted_as_are_sampled(fresh: Checkout) -> None:
    config = configuration()
    counts, _ = fresh.plan("all")
    sampled = sum(count for rule, count in counts.items() if rule.startswith("sample"))
    assert sampled == sum(len(sample_sets(config, row)) for row in config.rows)


FETCHED = [name for name, row in configuration(REFERENCES).rows.items() if row.weights]
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


def test_results_of_a_rehearsal_are_refused_and_the_plan_uses_what_was_measured(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    results = checkout.folder / "results/rehearsal"
    (results / "data/raw").mkdir(parents=True)
    (results / "data/raw/REHEARSAL").touch()
    header, *_ = throughput.PACKAGED.read_text(encoding="utf-8").splitlines()
    line = "B200 180GB,train,dit-xl,36,siglip2-b,single,tf32,128,999,,834.7,rehearsal,test"
    (results / "throughput.csv").write_text(f"{header}\n{line}\n", encoding="utf-8")
    checkout.refused({"results": "results/rehearsal"}, "results/rehearsal holds a rehearsal and no results")
    run = checkout.snakemake("--cores", "1", "plan")
    text = (checkout.folder / "results/plan.md").read_text(encoding="utf-8")
    assert text in run.stdout
    assert "Estimated for B200 180GB" in text
    assert "Speeds of a rehearsal on this cluster are used." in text
    for line in (r"1,024,819,200 \|", r".*\| +999.0 \|.*measured, rehearsal on this cluster"):
        assert re.search(rf"dit-siglip2b-dsr +\| train +\| {line}", text)
    (results / "data/raw/REHEARSAL").rename(results / "data/raw/train.json")
    real = {"results": "results/rehearsal", "data": {"source": "made"}}
    checkout.refused(real, "holds other images than a rehearsal's (no ")


def test_the_papers_rows_are_planned_with_networks_of_full_size(fresh: Checkout) -> None:
    counts, text = fresh.plan("-p", "rehearsal", "--configfile", REHEARSAL)
    assert (counts["stand_in_encoder"], counts["stand_in_decoder"], counts["train"], counts["sample"]) == (2, 2, 6, 6)
    assert text.count(" --preempt-once dsr.commands.train") == 6
    assert "fetch" not in counts
    assert " --preempt-once" not in fresh.plan("-p", "results/table1.md")[1]
