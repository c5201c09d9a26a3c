"""A preemption that a rehearsal causes itself."""

import contextlib
import os
import signal
import time
from pathlib import Path

from dsr.base.files import read_json_lines
from dsr.launch.slurm import TORCHRUN, SlurmJob, descendants

STEPS = 4
"""Steps that a training job reports before it is told to stop."""
POLL_SECONDS = 0.1


def preempt_once(state: Path) -> None:
    """Let a process beside this one send SIGTERM to it, or to what it becomes, once training has done a few steps.

    Only the first start is stopped: a record in the folder ``state`` is from an earlier one.
    """
    record, process = state / "metrics.jsonl", os.getpid()
    if record.exists() or os.fork():
        return
    while os.getppid() == process:
        if record.exists() and len(read_json_lines(record)) >= STEPS:
            # In a SLURM job the launcher passes it on. Elsewhere torchrun would kill its workers after 30 seconds.
            for pid in [process] if SlurmJob.current() else descendants(process):
                with contextlib.suppress(OSError):
                    if pid != os.getpid() and TORCHRUN.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGTERM)
            break
        time.sleep(POLL_SECONDS)
    os._exit(0)
