"""A real SLURM on one host, for tests: `python -m tests.slurm.cluster up`, then `down`.

One controller, a few node daemons that share the host, GPUs that are only counted, and two partitions: `low`, whose
jobs are requeued after a grace period when `high` needs their room. Debian or Ubuntu, as root. Everything lives in one
folder except the link /etc/slurm/slurm.conf; a host that has a SLURM configuration of its own is left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "squeue": "slurm-client", "munged": "munge"}
"""Program -> Debian package."""
LINK = Path("/etc/slurm/slurm.conf")
"""Jobs look here: the executor plugin hides SLURM_CONF, like every SLURM_* variable, from what it starts."""
POLICY = Path("/usr/sbin/policy-rc.d")
"""While this exits with 101, packages do not start their daemons."""


class ClusterError(RuntimeError):
    """The test cluster cannot be started here; the message says why."""


@dataclass(frozen=True)
class Cluster:
    """Shape of the cluster; resources are only counted, so they may exceed the host's."""

    folder: Path = Path("/tmp/dsr-test-slurm")
    nodes: int = 2
    cpus: int = 16
    memory_mb: int = 64000
    gpus: int = 8
    grace: int = 20
    """Seconds between the notice of a preemption and its execution (checked by SLURM about every 30 s)."""
    requeue_wait: int = 5
    """Seconds that a requeued job waits before it may start again (SLURM's default is 120)."""
    port: int = 26900

    @property
    def names(self) -> list[str]:
        """Names of the nodes."""
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    def up(self) -> None:
        """Install what is missing, then start what does not run yet."""
        if os.geteuid() != 0:
            raise ClusterError("the test cluster needs root (munge, slurmctld and slurmd are started here)")
        own = self.folder / "etc/slurm.conf"
        if (LINK.exists() or LINK.is_symlink()) and not (LINK.is_symlink() and LINK.readlink() == own):
            raise ClusterError(f"{LINK} exists: this host has a SLURM configuration, which the tests will not touch")
        install(PROGRAMS)
        for name in ("etc", "log", "pid", "state", "munge", "gpu"):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o755)
        self._start_munge()
        self._write_configuration()
        LINK.parent.mkdir(parents=True, exist_ok=True)
        if not LINK.is_symlink():
            LINK.symlink_to(own)
        if not self._runs("slurmctld"):
            self._start("slurmctld", ["slurmctld"])
        wait_until(lambda: succeeds("scontrol", "ping"), 20, "slurmctld does not answer")
        for name in self.names:
            self.start_node(name)
        wait_until(lambda: self.ready() == self.names, 40, f"nodes do not come up (see {self.folder}/log)")

    def down(self) -> None:
        """Cancel all jobs, stop every daemon started here, and remove the folder and the link."""
        if LINK.is_symlink() and LINK.readlink() == self.folder / "etc/slurm.conf":
            if self._runs("slurmctld"):
                with contextlib.suppress(ClusterError):
                    self.clear()
            for name in (*(f"slurmd.{node}" for node in self.names), "slurmctld", "munged"):
                self._stop(name, signal.SIGTERM)
            LINK.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        """Cancel all jobs and bring every node back."""
        subprocess.run(["scancel", "--user", "root"], capture_output=True, timeout=20, check=False)
        for name in self.names:
            self.start_node(name)
        wait_until(lambda: not output("squeue", "--noheader"), 60, "jobs do not end")

    def start_node(self, name: str) -> None:
        """Start a node's daemon, and tell the controller that the node is back if it was given up."""
        if not self._runs(f"slurmd.{name}"):
            self._start(f"slurmd.{name}", ["slurmd", "-N", name])
        state = output("sinfo", "--noheader", "--nodes", name, "--partition", "low", "--format", "%T")
        if state.startswith(("down", "drain")):
            subprocess.run(["scontrol", "update", f"NodeName={name}", "State=RESUME"], check=False)

    def fail_node(self, name: str) -> None:
        """Kill a node's daemon and every process of its jobs at once, as a power cut would."""
        self._stop(f"slurmd.{name}", signal.SIGKILL)
        for pid, command in processes():
            if command.startswith("slurmstepd") and str(self.folder / f"spool.{name}") in open_files(pid):
                for member in (pid, *descendants(pid)):
                    kill(member, signal.SIGKILL)

    def ready(self, states: str = "idle,mix,alloc") -> list[str]:
        """Names of the nodes in these states (default: the nodes that take jobs)."""
        listing = output("sinfo", "--noheader", "--Node", "--partition", "low", "--states", states, "--format", "%N")
        return sorted(listing.split())

    def _start_munge(self) -> None:
        folder, key = self.folder / "munge", self.folder / "munge/key"
        if self._runs("munged"):
            return
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(1024))
        # --force: munge wants no world-writable folder above its socket, and /tmp is one.
        arguments = [
            "munged",
            "--force",
            f"--key-file={key}",
            f"--socket={folder}/socket",
            f"--seed-file={folder}/seed",
        ]
        self._start(
            "munged", [*arguments, f"--pid-file={self.folder}/pid/munged", f"--log-file={self.folder}/log/munged"]
        )
        wait_until(lambda: succeeds("munge", "--no-input", f"--socket={folder}/socket"), 10, "munge does not answer")

    def _write_configuration(self) -> None:
        etc, host = self.folder / "etc", socket.gethostname().split(".")[0]
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={self.port + 1 + number} CPUs={self.cpus}"
            f" RealMemory={self.memory_mb} Gres=gpu:{self.gpus} State=UNKNOWN"
            for number, name in enumerate(self.names)
        )
        template = (Path(__file__).parent / "slurm.conf").read_text(encoding="utf-8")
        (etc / "slurm.conf").write_text(
            template.format(
                host=host, folder=self.folder, port=self.port, nodes=nodes, names=",".join(self.names),
                grace=self.grace, requeue_wait=self.requeue_wait,
            ),
            encoding="utf-8",
        )  # fmt: skip
        for number in range(self.gpus):
            device = self.folder / f"gpu/gpu{number}"
            if not device.exists():
                os.mknod(device, 0o666 | stat.S_IFCHR, os.stat("/dev/null").st_rdev)
        lines = [f"NodeName={name} Name=gpu File={self.folder}/gpu/gpu[0-{self.gpus - 1}]" for name in self.names]
        (etc / "gres.conf").write_text("\n".join(["AutoDetect=off", *lines, ""]), encoding="utf-8")
        (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nConstrainDevices=no\n", encoding="utf-8")

    def _start(self, name: str, command: list[str]) -> None:
        # gres.conf is looked for beside the file that this names.
        environment = {**os.environ, "SLURM_CONF": str(self.folder / "etc/slurm.conf")}
        started = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if started.returncode:
            raise ClusterError(f"{name} does not start: {started.stdout}{started.stderr} (see {self.folder}/log)")

    def _runs(self, name: str) -> bool:
        return self._pid(name) is not None

    def _pid(self, name: str) -> int | None:
        """Process of a daemon, if its pid file names a living process of that program."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / "pid" / name).read_text())
            if Path(f"/proc/{pid}/comm").read_text().strip() == name.split(".")[0]:
                return pid
        return None

    def _stop(self, name: str, number: signal.Signals) -> None:
        pid = self._pid(name)
        if pid is not None:
            kill(pid, number)
            with contextlib.suppress(ClusterError):
                wait_until(lambda: not alive(pid), 15, f"{name} does not stop")
            if alive(pid):
                kill(pid, signal.SIGKILL)
        (self.folder / "pid" / name).unlink(missing_ok=True)


def install(programs: dict[str, str]) -> None:
    """Install the packages of missing programs, without letting them start their daemons."""
    packages = sorted({package for program, package in programs.items() if shutil.which(program) is None})
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(f"missing: {', '.join(packages)}; the tests can install them on Debian and Ubuntu only")
    with contextlib.ExitStack() as stack:
        if not POLICY.exists():
            POLICY.write_text("#!/bin/sh\nexit 101\n")
            POLICY.chmod(0o755)
            stack.callback(POLICY.unlink)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            done = subprocess.run(["apt-get", "--quiet", *arguments], env=environment, capture_output=True, text=True)
            if done.returncode:
                raise ClusterError(f"apt-get {arguments[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def wait_until(condition: Callable[[], bool], seconds: float, problem: str) -> None:
    """Wait for a condition, looking five times a second.

    Raises:
        ClusterError: with ``problem`` if it does not come true in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise ClusterError(f"{problem} (waited {seconds:.0f} s)")
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
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def processes() -> Iterator[tuple[int, str]]:
    """Process id and command line of every process."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(folder.name), (folder / "cmdline").read_text(errors="replace").replace("\0", " ").strip()


def descendants(pid: int) -> list[int]:
    """Children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = list(children.get(pid, ()))
    for child in found:
        found += children.get(child, ())
    return found


def open_files(pid: int) -> str:
    """Names of the files that a process has open, and its working directory."""
    names = []
    for link in (Path(f"/proc/{pid}/cwd"), *Path(f"/proc/{pid}/fd").glob("*")):
        with contextlib.suppress(OSError):
            names.append(str(link.readlink()))
    return "\n".join(names)


def main() -> None:
    """Start or stop the cluster by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("up", "down"))
    getattr(Cluster(), parser.parse_args().action)()


if __name__ == "__main__":
    main()
