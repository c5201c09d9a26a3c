"""What the SLURM plugin refuses in a thread, where nobody sees it, is refused at the start with the reason."""

from __future__ import annotations

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
