"""Stop, save, requeue: what a long command needs around it in a SLURM job."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from dsr.base.errors import EXIT_STOPPED
from dsr.launch import child
from dsr.launch.attempts import FRUITLESS_STARTS, Attempts
from dsr.launch.slurm import SlurmJob

log = logging.getLogger(__name__)

END_SECONDS = 300
"""A requeued job is ended by SLURM within seconds; after this long something is wrong."""


def supervise(command: Sequence[str], job: SlurmJob, state: Path | None) -> int:
    """Run ``command`` in a job; if it was stopped (preemption, time limit), put the job back into the queue.

    A stopped command that finished nevertheless, or failed by itself, ends the job with its own exit code. So does one
    without a ``state`` folder to go on from, and one that was stopped again and again without progress in it.

    Returns:
        Exit code for the job; after a requeue the call does not return before SLURM ends the process.
    """
    attempts = None if state is None else Attempts(state)
    if attempts is not None and job.node == 0 and not attempts.begin(job.id):
        log.error("Started %d times in a row without a new file in %s: giving up", FRUITLESS_STARTS, state)
        return 1
    ending = child.run(command)
    if ending.code == 0 and attempts is not None and job.node == 0:
        attempts.end()
    stopped = ending.code == EXIT_STOPPED or (ending.asked and ending.code != 0)
    if not stopped or attempts is None:
        return ending.code
    if job.node > 0:
        # The first node decides; leaving before it would make the job fail.
        time.sleep(END_SECONDS)
    elif not attempts.may_continue():
        log.error("Stopped %d times in a row without a new file in %s: giving up", FRUITLESS_STARTS, state)
    elif (found := job.state()) not in (None, "RUNNING"):
        log.warning("Job %s is no longer running but %s (cancelled, or already requeued); leaving", job.id, found)
    elif not job.requeue():
        log.error("SLURM does not requeue job %s; Snakemake submits it again, or run the same command", job.id)
    else:
        log.warning("Job %s is requeued and will go on from %s", job.id, state)
        time.sleep(END_SECONDS)
    return ending.code
