"""Jobs: what cannot be submitted to SLURM is refused, what is asked for, and the status while jobs run and after."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.processes import stand_in

from .conftest import ROOT, TINY, Checkout, copy_checkout

TARGET = "results/demo/data/prepared/validation/index.npz"
KNOWN = ("--default-resources", "slurm_account=known", "slurm_partition=gpu")


@pytest.mark.parametrize(
    ("age", "arguments", "message"),
    [
        (300, (), "cannot be submitted to SLURM: The given account default appears to be invalid"),
        (300, (*KNOWN, "slurm_extra='--qos=night'"), "The --quality-of-service option is not allowed"),
        (300, (*KNOWN, "gres='gpu:a100-sxm4:4'"), "Invalid GRES format"),
        (60, (), "SLURM forgets finished jobs after 60 s (MinJobAge), sooner than Snakemake may look (180 s)"),
    ],
)
def test_lost_submissions_are_refused(
    fresh: Checkout, tmp_path: Path, age: int, arguments: tuple[str, ...], message: str
) -> None:
    for program, answer in (
        ("scontrol", f"echo 'MinJobAge = {age} sec'"),
        ("sacctmgr", "echo known"),
        ("sbatch", f"touch {tmp_path}/submitted; echo 1"),
        ("squeue", ""),
    ):
        stand_in(tmp_path / program, answer)
    run = fresh.snakemake("--profile", "slurm", "--configfile", *TINY, *arguments, "--", TARGET, path=tmp_path)
    assert run.returncode == 1
    assert message in run.stdout
    assert "Traceback" not in run.stdout
    assert not (tmp_path / "submitted").exists()


def test_jobs_without_gpus_have_a_partition_of_their_own_and_crops_go_in_groups(fresh: Checkout) -> None:
    samples = "results/rows/dit-siglip2b/epoch-80/unguided-seed0/samples.npz"
    _, text = fresh.plan("--profile", "slurm", samples, change={"execution": {"processes": 4}})
    assert text.count("Group job crops") == 16
    for rule, asked in {"prepare_shard": ("cpu", ""), "prepare_index": ("cpu", ""), "sample": ("gpu", "gpu:4")}.items():
        resources = rf"^ *(?:local)?rule {rule}:\n.*?slurm_partition=(\w+)(?:[^\n]*gres=([\w:]+))?"
        assert {*re.findall(resources, text, re.S | re.M)} == {asked}


def test_the_status_is_shown_while_snakemake_runs_and_after_jobs_failed(tmp_path: Path) -> None:
    assert "-m dsr.commands.status $(RESULTS)/status.json" in (ROOT / "Makefile").read_text(encoding="utf-8")
    checkout = copy_checkout(tmp_path)
    assert "Snakemake writes it when it starts" in checkout.status().stdout
    (tmp_path / "fewer.yaml").write_text("data: {validation_images: 300}", encoding="utf-8")
    options = ("--profile", "profiles/demo", "--configfile", *TINY, "fewer.yaml", "--cores", "2", "--retries", "1")
    with ThreadPoolExecutor() as pool:
        # A program of its own, which is known by its name.
        run = pool.submit(checkout.run, "snakemake", TARGET, *options)
        while not (tmp_path / "results/demo/status.json").exists():
            assert not run.done(), run.result().stdout
            time.sleep(0.1)
        shown = checkout.status()
        assert not run.done(), "the status must be asked for while jobs run"
    assert shown.returncode == 0, shown.stdout
    assert "| dit-siglip2b " in shown.stdout
    assert "not started" in shown.stdout
    assert "Snakemake is running (process " in shown.stdout
    assert run.result().returncode == 1
    shown = checkout.status()
    assert "Failed: 2 jobs." in shown.stdout
    assert "- prepare_shard validation 00001 (tried 2 times)\n" in shown.stdout
    assert "validation: holds 360 images, but the configuration says 300" in shown.stdout
    assert "  results/demo/logs/prepare/validation-00001.log\n" in shown.stdout
    assert "Snakemake is not running" in shown.stdout
    assert (log := re.search(r"Its log: (\S+)", shown.stdout))
    assert "Error in rule prepare_shard" in Path(log[1]).read_text(encoding="utf-8")
