"""What a trainer owes other processes: to be alone in its run directory, and to leave when it is told to.

The lock holds on one host and across hosts, and no kill leaves it behind. A trainer leaves early at a signal, with a
spent time budget, or when its launcher is gone.
"""

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from dsr.base.errors import UserError

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
"""The holder touches the lock file this often."""
PATIENCE_SECONDS = 60.0
"""A holder on another host counts as gone when it has not touched the file for this long."""


@contextlib.contextmanager
def exclusive(run: Path, *, patience: float = PATIENCE_SECONDS, beat: float = BEAT_SECONDS) -> Iterator[None]:
    """Hold the run directory's lock.

    The kernel's lock goes away with its process, however that ends. Some network file systems keep such locks to
    one host, so a holder also leaves its host and process id in the file and touches it regularly: where another
    host is named there, the file is watched for ``patience`` seconds before it is taken over.

    Raises:
        UserError: if another trainer holds it, naming its host and process.
    """
    run.mkdir(parents=True, exist_ok=True)
    path = run / "lock"
    # A record lock (lockf), not flock: data-loading workers that outlive a killed trainer do not inherit it.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(descriptor, path, patience)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        released = threading.Event()
        thread = threading.Thread(target=_beat, args=(descriptor, released, beat), daemon=True)
        thread.start()
        try:
            yield
        finally:
            released.set()
            thread.join()
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, patience: float) -> None:
    taken = False
    with contextlib.suppress(BlockingIOError, PermissionError):
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = True
    here, holder = socket.gethostname(), _holder(descriptor)
    name = f"process {holder.get('pid', '?')} on host {holder.get('host', '?')}"
    if taken and holder.get("host", here) != here:
        log.warning("%s names %s on another host; watching for %.0f seconds whether it is alive", path, name, patience)
        # Asked for by name, which makes a network file system look at the server.
        before, end = path.stat().st_mtime_ns, time.monotonic() + patience
        while (taken := path.stat().st_mtime_ns == before) and time.monotonic() < end:
            time.sleep(min(1.0, patience / 10))
        if taken:
            log.warning("%s is gone; taking over", name)
    if not taken:
        raise UserError(
            f"{path.parent}: another trainer is using this run directory ({name}); wait for it, or end it, and run the"
            " same command again"
        )


def _beat(descriptor: int, released: threading.Event, seconds: float) -> None:
    while not released.wait(seconds):
        os.utime(descriptor)


def _holder(descriptor: int) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        holder = json.loads(os.pread(descriptor, 4096, 0))
        if isinstance(holder, dict):
            return holder
    return {}


class StopRequest:
    """Reason to stop, or an empty string; signal handlers only note it, the training loop acts on it."""

    def __init__(self, minutes: float | None = None) -> None:
        self._signal = ""
        self._minutes = minutes
        self.began = time.monotonic()
        """When the trainer began."""
        self._deadline = None if minutes is None else self.began + 60.0 * minutes
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
