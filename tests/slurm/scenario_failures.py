"""What happens to jobs that keep no state, and to jobs that never get anywhere."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys

from dsr.launch.slurm import FRUITLESS_STARTS
from dsr.plan.status import failed
from tests.slurm.cluster import Lane
from tests.slurm.host import kill, output, wait
from tests.slurm.workspace import DECODER, EPOCH, STATISTICS, WEIGHTS, Workspace, state

SUPERVISED, ALONE = "dsr.commands.statistics", "dsr.commands.demo"
"""A command under a launcher, and one that is all that its job runs."""
BROKEN = """
import sys
from pathlib import Path
with Path("starts").open("a") as file:
    file.write("start\\n")
sys.exit(75)
"""
"""A command that wants to go on and never gets anywhere."""


def test_jobs_that_keep_no_state_begin_anew_after_a_preemption(
    workspace: Workspace, reference: Workspace, lane: Lane
) -> None:
    for path in (STATISTICS, DECODER):
        (workspace.folder / path).unlink()
    run = workspace.submit(STATISTICS, DECODER)
    held: dict[str, list[int]] = {}
    with contextlib.ExitStack() as stack:

        def all_held() -> bool:
            for module in {SUPERVISED, ALONE} - set(held):
                if workspace.workers(module):
                    held[module] = stack.enter_context(workspace.paused(module))
            return len(held) == 2

        run.until(all_held, "the jobs do not start")
        lane.preempt()

        def requeued() -> bool:
            # Only a launcher can tell its command to end; a job without one stays until it is killed.
            for pid in held[ALONE]:
                kill(pid, signal.SIGSTOP)
            return all(state(job) == "PENDING" for job in run.jobs())

        run.until(requeued, "the jobs are not requeued")
    assert run.finish() == 0, run.log
    assert len(run.jobs()) == 2
    for path in (STATISTICS, DECODER):
        assert (workspace.folder / path).read_bytes() == (reference.folder / path).read_bytes()


def test_broken_jobs_do_not_run_for_ever(workspace: Workspace, lane: Lane) -> None:
    # One fails by itself: Snakemake tries three times.
    inputs = workspace.folder / STATISTICS
    written = inputs.stat()
    inputs.write_bytes(b"not statistics")
    os.utime(inputs, ns=(written.st_atime_ns, written.st_mtime_ns))
    run = workspace.submit(WEIGHTS)

    # The other one asks to be continued: it is requeued as long as its launcher allows.
    broken = workspace.folder / "broken"
    broken.mkdir()
    (broken / "never_done.py").write_text(BROKEN)
    launcher = f"{sys.executable} -m dsr.commands.launch --state {broken}/state never_done"
    paths = f"{broken}:{workspace.folder}/src"
    job = output(
        "env", f"PYTHONPATH={paths}", "sbatch", "--parsable", "--requeue", "--partition", lane.low,
        "--chdir", str(broken), "--open-mode", "append", "--output", f"{broken}/log",
        "--wrap", f"srun --ntasks 1 {launcher}",
    )  # fmt: skip
    wait(lambda: state(job) == "FAILED", lambda: f"the job is not given up: {state(job)}")
    assert (broken / "starts").read_text().count("start") == FRUITLESS_STARTS
    assert "giving up" in (broken / "log").read_text()

    assert run.finish() == 1
    assert len(run.jobs()) == 3
    assert workspace.starts() == 0
    said = failed(workspace.folder / "results/demo/failures.json", workspace.folder)
    assert re.search(
        rf"^- train dit-siglip2b-dsr {EPOCH} \(tried 3 times, SLURM job \d+\)\n.*not a readable", said, re.MULTILINE
    )
