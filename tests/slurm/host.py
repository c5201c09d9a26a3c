"""What the test cluster needs of the host: packages, commands, processes, and patience."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.processes import stand_in

POLICY = Path("/usr/sbin/policy-rc.d")
"""While this exits with 101, packages do not start their daemons."""


PATIENCE = 450.0
"""Seconds that anything may take; two busy cores are slow."""


class ClusterError(RuntimeError):
    """The test cluster does not work; the message says why."""


class UnavailableError(ClusterError):
    """This host is no place for a test cluster; the message says why."""


def install(programs: dict[str, str]) -> None:
    """Install the packages of missing programs, without letting them start their daemons."""
    packages = sorted({package for program, package in programs.items() if shutil.which(program) is None})
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise UnavailableError(f"missing: {', '.join(packages)}; the tests can install them on Debian and Ubuntu only")
    with contextlib.ExitStack() as stack:
        if not POLICY.exists():
            stand_in(POLICY, "exit 101")
            stack.callback(POLICY.unlink)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            done = subprocess.run(["apt-get", "--quiet", *arguments], env=environment, capture_output=True, text=True)
            if done.returncode:
                raise UnavailableError(f"apt-get {arguments[0]} failed: {done.stderr.strip()[-500:]}")


def wait(
    condition: Callable[[], bool],
    problem: str | Callable[[], str],
    seconds: float = PATIENCE,
    process: subprocess.Popen[bytes] | None = None,
) -> None:
    """Wait for a condition.

    Raises:
        ClusterError: with ``problem`` if it does not come true in time, or as soon as ``process`` has ended without it.
    """
    end = time.monotonic() + seconds
    while not condition():
        over = process is not None and not alive(process.pid)
        if (over and not condition()) or time.monotonic() > end:
            raise ClusterError(problem if isinstance(problem, str) else problem())
        time.sleep(0.2)


def output(*command: str) -> str:
    """Standard output of a command, stripped; empty if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def succeeds(*command: str) -> bool:
    """Whether a command exits with 0."""
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    return status(pid).get("State", "Z")[0] not in "XZ"


def stopped(pid: int) -> bool:
    """Whether a process has obeyed a SIGSTOP."""
    return status(pid).get("State", "Z")[0] == "T"


def told_to_end(pid: int) -> bool:
    """Whether a SIGTERM waits for a stopped process."""
    return bool(int(status(pid).get("ShdPnd", "0"), 16) >> (signal.SIGTERM - 1) & 1)


def status(pid: int) -> dict[str, str]:
    """Return what the kernel says about a process; nothing if there is none."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {}


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def processes() -> Iterator[tuple[int, str]]:
    """Process id and command line of every process."""
    for process in psutil.process_iter(["cmdline"]):
        yield process.pid, " ".join(process.info["cmdline"] or ())


def works_in(pid: int, folder: Path) -> bool:
    """Whether a living process has its working directory or an open file in a folder."""
    for link in (Path(f"/proc/{pid}/cwd"), *Path(f"/proc/{pid}/fd").glob("*")):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(folder):
                return True
    return False


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let nothing but SIGKILL interrupt what must be finished."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
