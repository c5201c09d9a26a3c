"""The rows of profiles/ablations: what Snakemake would run for them, and that they are the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsr.analysis.cost import denoiser_cost
from dsr.report.published import Published
from tests.configuration import configuration

from .conftest import Checkout, copy_checkout

OVERLAY = "profiles/ablations/config-overlay.yaml"
DISCOVERED = {"discover_neurons", "statistics"}
RELEASED = {"released_neurons", "fetch_statistics"}
EXPECTED = {
    "dit-siglip2b-masked": {"fetch_statistics"},
    "dit-siglip2b-ttr": RELEASED,
    "dit-so400m-ttr": DISCOVERED,
    "dit-so400m-recursive": RELEASED,
    "dit-siglip2b-registers": {"fetch_statistics"},
    "dit-dinov2b": {"statistics"},
    "dit-dinov2b-registers": {"statistics"},
    "dit-s-siglip2b": {"fetch_statistics"},
    "dit-s-siglip2b-dsr": RELEASED,
    "dit-b-siglip2b": {"fetch_statistics"},
    "dit-b-siglip2b-dsr": RELEASED,
}
"""Row -> what is done about register neurons and latent statistics."""


def test_rows_are_those_of_the_published_tables() -> None:
    tables = ("encoder-registers", "diffusion-registers", "scaling")
    published = {line["row"] for table in tables for line in Published().lines(table)}
    own = set(configuration(OVERLAY).rows) - set(configuration().rows)
    assert published - set(configuration().rows) == own == set(EXPECTED)


def test_the_small_denoisers_count_as_many_gflops_as_the_papers() -> None:
    config, published = configuration(OVERLAY), Published()
    for row in config.tables["scaling"].rows:
        assert denoiser_cost(config.model(row)).flops / 1e9 == pytest.approx(
            published.values("scaling", row, 80, "unguided")["gflops"], abs=0.05
        )


def test_all_rows_are_planned_beside_the_six(fresh: Checkout) -> None:
    counts, _ = fresh.plan("results/table1.md", "--configfile", OVERLAY)
    assert counts["train"] == (6 + len(EXPECTED)) * 3  # epochs 40, 80 and 800


# The small rows have the encoders, with and without test-time registers, of rows of the main table.
@pytest.mark.parametrize("row", [row for row in EXPECTED if not row.startswith(("dit-s-", "dit-b-"))])
def test_a_row_up_to_epoch_80(fresh: Checkout, row: str) -> None:
    counts, _ = fresh.plan(f"results/rows/{row}/epoch-80/unguided-seed0/metrics.json", "--configfile", OVERLAY)
    assert (counts["train"], counts["sample"], counts["evaluate"]) == (2, 1, 1)  # by way of epoch 40
    assert set(counts) & (DISCOVERED | RELEASED) == EXPECTED[row]


def test_the_four_models_are_drawn_without_training_beyond_epoch_80(fresh: Checkout) -> None:
    overlays = (OVERLAY, "profiles/ablations/figures-overlay.yaml")
    counts, text = fresh.plan("denoiser_figures", "--configfile", *overlays)
    assert (counts["train"], counts["denoiser_maps"], counts["figure_times"], counts["figure_denoiser"]) == (8, 4, 4, 4)
    assert "epoch-800" not in text


def test_the_curve_of_fid_scores_two_rows_at_the_epochs_of_the_chart(fresh: Checkout) -> None:
    overlay = "profiles/epochs/config-overlay.yaml"
    counts, _ = fresh.plan("results/tables/epochs.md", "results/figures/fid.png", "--configfile", overlay)
    assert counts["train"] == counts["sample"] == counts["evaluate"] == 2 * 8
    assert [*configuration(overlay).evaluation.epochs] == sorted(
        {line["epochs"] for line in Published().lines("chart")}
    )


def test_a_decoder_that_is_there_is_used_and_not_fetched(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    decoder = checkout.folder / "results/decoders/dinov2-b-registers.safetensors"
    decoder.parent.mkdir(parents=True)
    decoder.write_bytes(b"a user's")
    counts, _ = checkout.plan("results/rows/dit-dinov2b/table1.md", "--configfile", OVERLAY)
    assert "fetch_decoder" not in counts
    assert counts["sample"] == 3
