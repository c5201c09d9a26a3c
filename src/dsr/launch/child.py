"""Run a command that gets as long as it needs after a SIGTERM."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

POLL_SECONDS = 0.5
TORCHRUN = "torch.distributed.run"


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
