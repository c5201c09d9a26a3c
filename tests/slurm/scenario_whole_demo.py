"""The whole workflow on the cluster, every job through SLURM."""

from __future__ import annotations

from tests.slurm.host import output
from tests.slurm.workspace import Workspace
from tests.workflow.conftest import job_counts

PARALLEL = ("statistics", "train", "sample")
"""Rules whose jobs compute in several processes."""
ALONE = ("prepare_shard", "discover_neurons", "evaluate", "encoder_maps", "denoiser_maps")


def test_the_whole_demo_runs_as_jobs_that_ask_for_eight_gpus(demo: Workspace) -> None:
    run = demo.submit("--jobs", "6")
    assert run.finish(1500) == 0, run.log[-5000:]
    assert (demo.folder / "results/demo/table1.md").read_text(encoding="utf-8").count("| dit") >= 6
    planned = job_counts(run.log)
    query = ("squeue", "--noheader", "--states", "all", "--partition", "calm", "--format", "%k %T %b")
    asked = output(*query).splitlines()
    for rule in (*PARALLEL, *ALONE):
        jobs = [line for line in asked if line.startswith(f"rule_{rule}_wildcards_")]
        assert len(jobs) == planned[rule]
        assert all(" COMPLETED " in line and line.endswith("gpu:8") == (rule in PARALLEL) for line in jobs), jobs
