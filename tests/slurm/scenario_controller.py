"""What happens to the controller, which no other scenario may need meanwhile."""

from __future__ import annotations

import contextlib
import signal
import time

from tests.slurm.cluster import Cluster
from tests.slurm.workspace import DECODER, Submission, Workspace, state, wait

MODULE = "dsr.commands.demo"
AWAY = 75
"""Seconds that the controller is away: longer than the plugin's own five attempts take at the profile's pace."""


def submit(workspace: Workspace) -> tuple[Submission, str]:
    """Submit the job of the decoder, and wait until it works."""
    run = workspace.submit(DECODER)
    job = run.job()
    run.until(lambda: bool(workspace.workers(MODULE)), "the job does not start")
    return run, job


def test_a_job_that_ends_while_the_controller_is_away_is_noticed(decoding: Workspace, cluster: Cluster) -> None:
    # As on a host without accounting: the plugin has nothing but squeue.
    decoding.stand_in("which", '[ "$1" != sacct ] && command -v "$1"')
    run, job = submit(decoding)
    with contextlib.ExitStack() as stack:
        with decoding.paused(MODULE):
            stack.enter_context(cluster.controller_away())
        wait(lambda: not decoding.workers(MODULE), lambda: "the job does not end")
        time.sleep(AWAY)
        assert run.process.poll() is None
    assert run.finish() == 0, run.log
    assert run.jobs() == [job]


def test_a_job_that_slurm_has_forgotten_between_two_looks_is_noticed(decoding: Workspace, cluster: Cluster) -> None:
    ended = f"{cluster.folder}/log/ended"
    decoding.stand_in("sacct", f"sed -nE 's/^JobId=([0-9]+) .*JobState=([A-Z_]+) .*/\\1|\\2/p' {ended}")
    with cluster.forgetful(10):
        run, job = submit(decoding)
        run.process.send_signal(signal.SIGSTOP)
        wait(lambda: state(job) == "", lambda: "SLURM does not forget the job")
        run.process.send_signal(signal.SIGCONT)
        assert run.finish() == 0, run.log
    assert run.jobs() == [job]
