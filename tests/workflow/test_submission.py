"""What the SLURM plugin refuses in a thread, where nobody sees it, is refused at the start with the reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import TINY, Checkout

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
        (tmp_path / program).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / program).chmod(0o755)
    command = ["snakemake", "--profile", "slurm", "--configfile", *TINY, *arguments, "--", TARGET]
    run = fresh.run(*command, path=tmp_path)
    assert run.returncode == 1
    assert message in run.stdout
    assert "Traceback" not in run.stdout
    assert not (tmp_path / "submitted").exists()


def test_jobs_without_gpus_have_a_partition_of_their_own_and_crops_go_in_groups(fresh: Checkout) -> None:
    samples = "results/rows/dit-siglip2b/epoch-80/unguided-seed0/samples.npz"
    _, text = fresh.plan("--profile", "slurm", samples, change={"execution": {"processes": 4}})
    assert text.count("Group job crops") == 16
    asked = {
        rule: re.findall(
            rf"^ *(?:local)?rule {rule}:\n.*?slurm_partition=(\w+)(?:[^\n]*gres=([\w:]+))?", text, re.S | re.M
        )
        for rule in ("prepare_shard", "prepare_index", "sample")
    }
    assert {rule: {*found} for rule, found in asked.items()} == {
        "prepare_shard": {("cpu", "")},
        "prepare_index": {("cpu", "")},
        "sample": {("gpu", "gpu:4")},
    }
