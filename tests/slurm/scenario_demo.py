"""The whole workflow on the cluster, every job through SLURM."""

from __future__ import annotations

from pathlib import Path

from tests.slurm.cluster import Cluster, output
from tests.slurm.workspace import HERE, Workspace
from tests.workflow.conftest import TINY, copy_checkout, job_counts

SUBMITTED = "has been submitted with SLURM jobid"
LOCAL = {"all", "provenance"}
"""Rules that run beside Snakemake."""


def test_the_whole_demo_runs_as_jobs_that_ask_for_gpus(cluster: Cluster, tmp_path: Path) -> None:
    workspace = Workspace(copy_checkout(tmp_path).folder, overlays=(*TINY, f"{HERE}/gpus.yaml"))
    workspace.settle()
    run = workspace.submit("--jobs", "6")
    try:
        assert run.finish(1200) == 0, run.log[-5000:]
    finally:
        workspace.close()
    planned = job_counts(run.log)
    assert run.log.count(SUBMITTED) == sum(count for rule, count in planned.items() if rule not in LOCAL)
    assert (workspace.folder / "results/demo/table1.md").read_text(encoding="utf-8").count("| dit") >= 6
    asked = output("squeue", "--noheader", "--states", "all", "--format", "%k %b").splitlines()
    trained = [line for line in asked if line.startswith("rule_train")]
    assert len(trained) == planned["train"]
    assert all(line.endswith("gpu:8") for line in trained)
