"""When to leave early: a signal, a spent time budget, or a launcher that is gone."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Reason to stop, or an empty string; signal handlers only note it, the training loop acts on it."""

    def __init__(self, minutes: float | None = None) -> None:
        self._signal = ""
        self._minutes = minutes
        self._deadline = None if minutes is None else time.monotonic() + 60.0 * minutes
        self._parent = os.getppid()

    @property
    def reason(self) -> str:
        """Why this process wants to stop ('' while it does not)."""
        if self._signal:
            return f"received {self._signal}"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return f"used its {self._minutes:g} minutes"
        # A launcher that is killed outright leaves its workers behind, in sessions of their own.
        if os.getppid() != self._parent:
            return "lost its launcher"
        return ""

    def note(self, number: int, _: FrameType | None) -> None:
        """Signal handler."""
        self._signal = signal.Signals(number).name


@contextlib.contextmanager
def stop_request(minutes: float | None = None) -> Iterator[StopRequest]:
    """Note SIGTERM and SIGINT instead of dying of them, and count ``minutes`` from now (null: no limit).

    Left to itself, torchrun passes a SIGTERM on and kills its workers 30 seconds later (a constant of torch 2.8): then
    the step in progress and one checkpoint must fit into that, or the last regular checkpoint is what remains.
    `dsr.commands.launch` keeps torchrun from that in SLURM jobs, and a time budget has no such limit anywhere.
    """
    request = StopRequest(minutes)
    previous = {number: signal.signal(number, request.note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore_stop_signals(_: int = 0) -> None:
    """Make a data-loading worker outlive the signals that reach its whole process group; its trainer ends it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
