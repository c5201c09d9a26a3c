"""The way from images to tables and maps on the cluster, every job through SLURM."""

from __future__ import annotations

import time

from tests.slurm.host import alive, output
from tests.slurm.workspace import Workspace
from tests.workflow.conftest import job_counts

PARALLEL = ("statistics", "train", "sample")
"""Rules whose jobs compute in several processes."""
ALONE = ("discover_neurons", "evaluate", "encoder_maps", "denoiser_maps")
TARGETS = ("table1.md", "figures/encoder-norms.png", "figures/denoiser-norms.png")
"""What takes every rule that has a place in the queue; other figures and tables are drawn where Snakemake runs."""


def test_the_demo_runs_as_jobs_that_ask_for_eight_gpus(demo: Workspace) -> None:
    run = demo.submit("--jobs", "6", "--", *(f"results/demo/{target}" for target in TARGETS))
    query = ("squeue", "--noheader", "--states", "all", "--partition", "calm", "--format", "%i %k %T %b")
    asked: dict[str, str] = {}
    end = time.monotonic() + 1500
    # SLURM forgets a job some minutes after its end.
    while alive(run.process.pid) and time.monotonic() < end:
        asked.update(line.split(" ", 1) for line in output(*query).splitlines())
        time.sleep(5)
    asked.update(line.split(" ", 1) for line in output(*query).splitlines())
    assert run.finish(1) == 0, run.log[-5000:]
    table = (demo.folder / "results/demo/table1.md").read_text(encoding="utf-8")
    assert "| dit-so400m " in table
    assert "| ditdh-so400m-dsr " in table
    assert "not run" not in table
    planned = job_counts(run.log)
    for rule in (*PARALLEL, *ALONE):
        jobs = [line for line in asked.values() if line.startswith(f"rule_{rule}_wildcards_")]
        assert len(jobs) == planned[rule]
        assert all(" COMPLETED " in line and line.endswith("gpu:8") == (rule in PARALLEL) for line in jobs), jobs
    # All shards of crops in one.
    assert sum(line.startswith("rule_crops") and " COMPLETED " in line for line in asked.values()) == 1
