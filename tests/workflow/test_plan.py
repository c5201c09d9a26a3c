"""The plan: what Snakemake would run, on a fresh clone without GPU, data or network."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.configuration import merged

from .conftest import ROOT, TINY, Checkout, copy_checkout, job_counts

LARGE = merged()["encoders"]["siglip2-b"] | {"neurons": "discovered", "statistics": "computed"}


def test_paper_plans_six_rows_on_a_fresh_clone(fresh: Checkout) -> None:
    counts, text = fresh.plan("results/table1.md")
    assert counts["train"] == 6 * 3  # epochs 40, 80 and 800
    # Four rows try eight guidance settings and are sampled again with the best of them.
    assert counts["choose_guidance"] == 4
    assert counts["sample"] == counts["evaluate"] == 6 * 3 + 4 * 8 + 4
    for row in merged()["rows"]:
        assert f"results/rows/{row}/epoch-800/ema.safetensors" in text


def test_weights_do_not_wait_for_a_milestone_that_came_later(fresh: Checkout) -> None:
    weights = fresh.folder / "results/rows/dit-siglip2b/epoch-80/ema.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    _, text = fresh.plan("results/rows/dit-siglip2b/epoch-80/unguided-seed0/metrics.json")
    shutil.rmtree(weights.parent)
    assert "to epoch 80" in text  # because its inputs are made first here
    assert "to epoch 40" not in text


def test_neurons_of_a_second_pass_are_discovered_with_those_of_the_first(fresh: Checkout) -> None:
    folder = "results/demo/encoders/siglip2-so400m"
    _, command = fresh.plan("-p", f"{folder}/neurons-recursive.json", "--profile", "profiles/demo")
    assert f"--encoder {folder} --first {folder}/neurons-single.json" in command


def test_how_jobs_run_is_what_the_trainer_is_told(fresh: Checkout) -> None:
    how = {"deterministic": False, "compile": True}
    _, command = fresh.plan("-p", "results/rows/dit-siglip2b/epoch-80/ema.safetensors", change={"execution": how})
    (execution,) = {*re.findall(r"--execution '(.*?)'", command)}
    assert json.loads(execution).items() >= how.items()


def test_the_partial_table_takes_what_exists_and_plans_nothing_else(fresh: Checkout) -> None:
    name = "rows/dit-siglip2b/epoch-1/unguided-seed0/metrics.json"
    metrics = fresh.folder / "results/demo" / name
    metrics.parent.mkdir(parents=True)
    fresh.planned(f"results/demo/{name}")
    spec = json.loads((fresh.folder / f"results/demo/specs/{name}.json").read_text(encoding="utf-8"))
    values = {"fid": 12.25, "inception_score": 2.0, "precision": 0.5, "recall": 0.25, "images": 20}
    reference = {"name": "validation", "images": 360}
    metrics.write_text(json.dumps({**values, "reference": reference, "spec": spec}), encoding="utf-8")
    run = fresh.tiny("results/demo/table1-partial.md")
    assert run.returncode == 0, run.stdout
    assert set(job_counts(run.stdout)) == {"partial_table"}
    text = (fresh.folder / "results/demo/table1-partial.md").read_text(encoding="utf-8")
    assert "12.25" in text
    command = re.search(r"dit-siglip2b-dsr, epoch 1, unguided: `(.*)`", text)
    planned = fresh.snakemake("-n", *shlex.split(command[1])[1:])
    assert job_counts(planned.stdout)["evaluate"] == 1

    shutil.rmtree(metrics.parents[1])
    assert fresh.planned("results/demo/table1-partial.md")["partial_table"] == 1


def test_more_references_and_seeds_are_more_evaluations_of_the_same_weights(fresh: Checkout) -> None:
    references = {"references": ["validation", "train", "adm"]}
    change = {"evaluation": references, "sampling": {"seeds": [0, 1], "sweep": None}}
    counts, _ = fresh.plan("results/table1.md", change=change)
    assert counts["train"] == 18
    assert counts["sample"] == counts["evaluate"] == 18 * 2
    assert counts["evaluate_again"] == 18 * 2 * 2
    assert (counts["reference"], counts["fetch_evaluator"]) == (2, 2)


def test_only_sets_that_are_scored_again_are_kept_and_only_those_of_figures_shown(fresh: Checkout) -> None:
    epochs = "results/rows/dit-siglip2b/epoch-"
    targets = f"{epochs}800/chosen-seed0/metrics-adm.json", f"{epochs}40/unguided-seed0/samples.npz"
    counts, text = fresh.plan("-p", *targets, change={"evaluation": {"references": ["validation", "adm"]}})
    assert (counts["evaluate"], counts["evaluate_again"]) == (8 + 1, 1)
    assert text.count(" --keep ") == 2
    assert len(re.findall(r" --board results/rows/dit-siglip2b/run-\w+/tensorboard/samples ", text)) == 1


@pytest.mark.parametrize(("given", "kept"), [("slurm_partition=long", ""), ("slurm_extra='--nice'", " --nice")])
def test_what_jobs_need_survives_other_default_resources(fresh: Checkout, given: str, kept: str) -> None:
    target = "results/rows/dit-siglip2b/epoch-80/unguided-seed0/samples.npz"
    _, text = fresh.plan("--profile", "slurm", "--default-resources", given, "--", target)
    (sample,) = re.findall(r"rule sample:.*?resources: (.*?)\n", text, re.DOTALL)
    assert f"slurm_extra=--signal=TERM@120 --open-mode=append{kept}, " in sample
    # On one machine a job has the GPUs for itself.
    assert "gres=gpu:8, tasks_per_gpu=0, gpu_jobs=1" in sample


def test_a_configuration_file_adds_to_the_demo(fresh: Checkout) -> None:
    run, planned = fresh.snakemake("-n", "--profile", "profiles/demo", "--configfile", TINY[1]), fresh.planned()
    assert job_counts(run.stdout) == planned
    assert planned["figure_averages"] == 2  # of the rows whose recipe keeps two


def test_another_checkout_runs_its_own_code(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    (checkout.folder / "src/dsr/config/load.py").write_text("raise ImportError('its own')", encoding="utf-8")
    assert "its own" in checkout.run("snakemake", "-n").stdout
    for file in ("Makefile", "rules/common.smk"):
        assert "PYTHONNOUSERSITE=1" in (ROOT / file).read_text(encoding="utf-8")


def test_published_weights_need_neither_training_nor_training_images(fresh: Checkout) -> None:
    profile = "profiles/reference-weights/config-overlay.yaml"
    counts, text = fresh.plan("reference_weights", "--configfile", profile)
    assert counts["fetch_weights"] == counts["sample"] == counts["evaluate"] == counts["evaluate_again"] == 6
    assert (counts["fetch_images"], counts["denoiser_maps"]) == (1, 2)
    assert counts["fetch_decoder"] == counts["fetch_statistics"] == 2
    assert not {"train", "statistics"} & set(counts)
    assert "data/raw/train" not in text
    assert "profiles/reference-weights/config-overlay.yaml" in fresh.snakemake("-n", "reference_weights").stdout


def test_reconstructions_need_neither_training_nor_training_images(fresh: Checkout) -> None:
    counts, text = fresh.plan("results/tables/reconstruction.md", "results/figures/reconstruction.png")
    assert (counts["reconstruct"], counts["evaluate_reconstructions"], counts["fetch_statistics"]) == (4, 1, 4)
    assert not {"train", "statistics", "sample"} & set(counts)
    assert "data/raw/train" not in text


def test_another_source_is_fetched_where_it_is_asked_for(fresh: Checkout) -> None:
    target, change = "results/decoders/siglip2-b.safetensors", {"sources": {"decoder-siglip2-b": "hub"}}
    for given, expected in (({}, False), (change, True)):
        _, text = fresh.plan("-p", target, change=given)
        assert ("--artifact decoder-siglip2-b" in text, "--source hub" in text) == (True, expected)


def test_tables_ask_for_the_rows_that_the_configuration_has(fresh: Checkout) -> None:
    table = "results/tables/scaling.md"
    assert fresh.plan(table)[0]["train"] == 2 * 2  # to epoch 80, by way of epoch 40
    overlay = "profiles/ablations/config-overlay.yaml"
    assert fresh.plan(table, "--configfile", overlay)[0]["train"] == 6 * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rowz": {}}, "rowz: unknown key"),
        ({"artifacts": {"siglip2": "/a"}}, "siglip2 not in src/dsr/artifacts/manifest.yaml (misspelt in `artifacts`?)"),
        ({"sources": {"siglip2-b": "hub"}}, "siglip2-b-hub not in src/dsr/artifacts/manifest.yaml"),
        (
            {"data": {"image_size": 128}},
            "data.image_size: 128 from 16 x 16 tokens, but the published decoder-siglip2-b",
        ),
        (
            {"encoders": {"siglip2-l": LARGE}, "rows": {"dit-siglip2b": {"encoder": "siglip2-l"}}},
            "siglip2-l, decoder-siglip2-l not in ",
        ),
        ({"tables": {"scaling": {"overlay": "nope.yaml"}}}, "No such file or directory: '"),
    ],
)
def test_bad_configuration_is_one_clear_error(fresh: Checkout, change: dict[str, Any], message: str) -> None:
    fresh.refused(change, message)


def test_a_row_that_is_trained_from_weights_fetches_them_first(fresh: Checkout) -> None:
    weights = {"artifact": "denoiser-siglip2-b", "epoch": 800, "classes": 1000, "registers": 0}
    row = {"encoder": "siglip2-b", "ttr": "none", "denoiser": "dit-xl", "registers": 36, "recipe": "dit"}
    change = {"rows": {"finetuned": {**row, "weights": weights}}}
    counts, text = fresh.plan("results/rows/finetuned/table1.md", change=change)
    assert counts["fetch_start"] == 1
    assert counts["train"] == 3
    assert "so400m" not in text, "a row needs its own jobs only"
    assert "results/rows/finetuned/start.safetensors" in text
    wrong = {"rows": {"finetuned": {**row, "weights": {**weights, "prediction": "velocity"}}}}
    fresh.refused(wrong, "rows.finetuned.weights.prediction: velocity, but flow.prediction is data")
