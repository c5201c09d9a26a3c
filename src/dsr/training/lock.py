"""One trainer per run directory: an exclusive lock that no kill leaves behind, on one host or across hosts."""

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
