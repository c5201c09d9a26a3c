"""One trainer per run directory: an exclusive lock that no kill leaves behind, on one host or across hosts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
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
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise _in_use(path, _holder(descriptor)) from None
    holder = _holder(descriptor)
    if holder.get("host", socket.gethostname()) == socket.gethostname():
        return
    log.warning(
        "%s names %s on another host; watching for %.0f seconds whether it is alive",
        path, _name(holder), patience,
    )  # fmt: skip
    before, end = _touched(path), time.monotonic() + patience
    while time.monotonic() < end:
        time.sleep(min(1.0, patience / 10))
        if _touched(path) != before:
            raise _in_use(path, holder)
    log.warning("%s is gone; taking over", _name(holder))


def _beat(descriptor: int, released: threading.Event, seconds: float) -> None:
    while not released.wait(seconds):
        os.utime(descriptor)


def _touched(path: Path) -> int:
    """Ask for the time of the last touch by name, which makes a network file system look at the server."""
    return path.stat().st_mtime_ns


def _holder(descriptor: int) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        holder = json.loads(os.pread(descriptor, 4096, 0))
        if isinstance(holder, dict):
            return holder
    return {}


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on host {holder.get('host', '?')}"


def _in_use(path: Path, holder: dict[str, Any]) -> UserError:
    return UserError(
        f"{path.parent}: another trainer is using this run directory ({_name(holder)});"
        " wait for it, or end it, and run the same command again"
    )
