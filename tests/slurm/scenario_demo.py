"""The way from images to tables and maps on the cluster, every job through SLURM, and a rehearsal of it."""

from __future__ import annotations

import time

from tests.slurm.host import alive, output
from tests.slurm.workspace import Workspace
from tests.workflow.conftest import job_counts

PARALLEL = ("statistics", "train", "sample")
"""Rules whose jobs compute in several processes."""
ALONE = ("discover_neurons", "evaluate", "encoder_maps", "denoiser_maps")
TARGETS = ("table1.md", "figures/encoder-norms.png", "figures/denoiser-norms.png")
"""What takes every kind of job that is queued (reconstructions are drawn and scored as samples are); other figures and
tables are drawn where Snakemake runs."""


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


def test_a_rehearsal_preempts_itself_once_and_goes_on(rehearsal: Workspace) -> None:
    results = rehearsal.folder / "results/rehearsal"
    decoder = results.with_name("decoders") / "siglip2-b.safetensors"
    made = rehearsal.local("--cores", "2", "--", "results/rehearsal/decoders/siglip2-b.safetensors")
    assert made.returncode == 0, made.stdout[-5000:]
    # What the paper's results have already is not made.
    decoder.parent.mkdir()
    (results / "decoders/siglip2-b.safetensors").rename(decoder)
    run = rehearsal.submit("--retries", "0", "rehearsal")
    assert run.finish() == 0, run.log[-5000:]
    (log,) = results.glob("rows/dit-siglip2b-dsr/run-*/train-12.log")
    text = log.read_text(encoding="utf-8")
    # The same job, which SLURM started again.
    assert text.count(" is requeued and will go on from ") == 1
    assert text.count("Resumed at step") == 1
    page = (results / "rehearsal.md").read_text(encoding="utf-8")
    assert "| dit-siglip2b-dsr |      2 |" in page
    assert "NOT RESUMED" not in page
    assert "Made, with random weights: evaluator's network, siglip2-b." in page
    (cells,) = ([cell.strip() for cell in x.split("|")[1:-1]] for x in page.splitlines() if x.startswith("| dit"))
    # Where a small state takes no time to save, its MB/s are not known.
    for column in (4, 5, 6, 8, 10, 11):
        assert float(cells[column].replace(",", "")) >= 0
    table = (results / "table1.md").read_text(encoding="utf-8")
    assert table.startswith("# REHEARSAL on made images")
    assert "No number here is comparable with a published one." in table
    assert (results / "figures/training.png").is_file()
    # CPUs are not planned for.
    assert (results / "throughput.csv").read_text(encoding="utf-8").count("\n") == 1
