"""Start a command, in several processes if asked, and give it as long as it needs after a SIGTERM."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dsr.launch.slurm import SlurmJob

POLL_SECONDS = 0.5
TORCHRUN = "torch.distributed.run"


def command_line(module: str, arguments: Sequence[str], processes: int, job: SlurmJob | None) -> list[str]:
    """Return the command that runs ``python -m module arguments`` in ``processes`` processes per node."""
    if job is not None and job.nodes > 1:
        place = ["--nnodes", f"{job.nodes}", "--node-rank", f"{job.node}"]
        place += ["--master-addr", job.address, "--master-port", f"{job.port}"]
    elif processes > 1:
        # Else it looks up the host's own name, and waits minutes where that does not resolve.
        place = ["--standalone", "--local-addr", "127.0.0.1"]
    else:
        return [sys.executable, "-m", module, *arguments]
    torchrun = [sys.executable, "-m", TORCHRUN, *place, "--nproc-per-node", f"{processes}"]
    # Without the two dashes torchrun looks for its own options among the command's, and finds `--run` ambiguous.
    return [*torchrun, "-m", "--", module, *arguments]


def run(command: Sequence[str]) -> tuple[int, bool]:
    """Run ``command`` and pass a SIGTERM on to the processes that it started, however deep.

    The command inherits a blocked SIGTERM. That makes torchrun deaf to it, which would otherwise kill its workers 30
    seconds later, possibly in the middle of a checkpoint; the workers unblock it (`dsr.base.command`).

    Returns:
        Exit code as a shell reports it, and whether this process received SIGTERM while the command ran.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # In cluster jobs it comes ignored (rules/common.smk), and what is ignored may never become pending.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    asked = False
    with subprocess.Popen(command) as child:
        while child.poll() is None:
            if _received_sigterm(POLL_SECONDS):
                asked = True
                for pid in (told := descendants(child.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
                # A torchrun that still waits for another node has no worker who would end it.
                if told == [child.pid] and TORCHRUN in command:
                    child.kill()
    # The signal may have reached the command first.
    asked = asked or (child.returncode != 0 and _received_sigterm(2 * POLL_SECONDS))
    return child.returncode if child.returncode >= 0 else 128 - child.returncode, asked


def descendants(pid: int) -> list[int]:
    """Process ids of a process, its children, and theirs; torchrun's workers are in sessions of their own."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses may contain blanks; the parent is the second field after it.
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for process in found:
        found += children.get(process, ())
    return found


def _received_sigterm(seconds: float) -> bool:
    return signal.sigtimedwait({signal.SIGTERM}, seconds) is not None
