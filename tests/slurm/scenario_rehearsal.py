"""A rehearsal on the cluster: it is preempted by itself, requeued, and says what it found."""

from __future__ import annotations

from tests.slurm.workspace import Workspace


def test_a_rehearsal_preempts_itself_once_and_goes_on(rehearsal: Workspace) -> None:
    run = rehearsal.submit("--retries", "0", "results/rehearsal/rehearsal.md")
    assert run.finish() == 0, run.log[-5000:]
    results = rehearsal.folder / "results/rehearsal"
    (log,) = results.glob("rows/dit-siglip2b-dsr/run-*/train-12.log")
    text = log.read_text(encoding="utf-8")
    # The same job, which SLURM started again.
    assert text.count(" is requeued and will go on from ") == 1
    assert text.count("Resumed at step") == 1
    page = (results / "rehearsal.md").read_text(encoding="utf-8")
    assert "| dit-siglip2b-dsr |      2 |" in page
    assert "NOT RESUMED" not in page
