"""A real SLURM on one host, for tests.

One controller, a few node daemons that share the host, and GPUs that are only counted. The nodes form lanes, so that
scenarios do not meet: in each, jobs of its partition `low` are requeued after a grace period when its `high` needs
their room. In the partition `calm` nothing happens. Debian or Ubuntu, as root. Everything lives in one folder except
the link /etc/slurm/slurm.conf; a host that has a SLURM configuration of its own is left alone. What works in that
folder belongs to the cluster, and ends with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.slurm import host

PROGRAMS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "squeue": "slurm-client", "munged": "munge"}
"""Program -> Debian package."""
LINK = Path("/etc/slurm/slurm.conf")
"""Jobs look here: the executor plugin hides SLURM_CONF, like every SLURM_* variable, from what it starts."""


@dataclass(frozen=True)
class Cluster:
    """Shape of the cluster; resources are only counted, so they may exceed the host's."""

    folder: Path = Path("/tmp/dsr-test-slurm")
    lanes: int = 6
    nodes: int = 2
    """Nodes of a lane, and of `calm`."""
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
        """Names of the nodes, lane by lane; those of `calm` come last."""
        return [f"node{number}" for number in range(1, self.nodes * (self.lanes + 1) + 1)]

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        """Have the cluster for a while; at the end, however that comes, nothing of it is left."""
        self._check_host()
        self.folder.mkdir(exist_ok=True)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise host.ClusterError(f"{self.folder} is in use by another `make test-slurm`") from None
        try:
            self._up()
            yield self
        finally:
            with host.undisturbed():
                self._sweep()
                with contextlib.suppress(FileNotFoundError):
                    self.folder.rmdir()
            os.close(folder)

    def _up(self) -> None:
        """Install what is missing, remove what an earlier cluster left, and start."""
        host.install(PROGRAMS)
        self._sweep()
        for name in ("etc", "log", "pid", "state", "munge", "gpu", "tmp"):
            (self.folder / name).mkdir(parents=True, mode=0o755)
        self._start_munge()
        self._write_configuration()
        LINK.parent.mkdir(parents=True, exist_ok=True)
        LINK.symlink_to(self.folder / "etc/slurm.conf")
        self._start("slurmctld", ["slurmctld"])
        host.wait(lambda: host.succeeds("scontrol", "ping"), "slurmctld does not answer", 60)
        for name in self.names:
            self.start_node(name)
        host.wait(lambda: self._ready() == sorted(self.names), f"nodes do not come up (see {self.folder}/log)", 60)

    def start_node(self, name: str) -> None:
        """Start a node's daemon, and tell the controller that the node is back if it was given up."""
        if self._pid(f"slurmd.{name}") is None:
            self._start(f"slurmd.{name}", ["slurmd", "-N", name])
        state = host.output("sinfo", "--noheader", "--nodes", name, "--format", "%T")
        if state.startswith(("down", "drain")):
            subprocess.run(["scontrol", "update", f"NodeName={name}", "State=RESUME"], check=False)

    @contextlib.contextmanager
    def controller_away(self) -> Iterator[None]:
        """Stop the controller for a while; nodes and jobs go on."""
        controller = self._pid("slurmctld")
        host.kill(controller, signal.SIGTERM)
        host.wait(lambda: self._pid("slurmctld") is None, "slurmctld does not end", 60)
        yield
        self._start("slurmctld", ["slurmctld"])

    @contextlib.contextmanager
    def forgetful(self, seconds: int) -> Iterator[None]:
        """Let the controller forget a job that long after its end, or at most a minute later, for a while."""
        path = self.folder / "etc/slurm.conf"
        usual = path.read_text(encoding="utf-8")
        changed, count = re.subn(r"MinJobAge=\d+", f"MinJobAge={seconds}", usual)
        assert count == 1
        path.write_text(changed, encoding="utf-8")
        assert host.succeeds("scontrol", "reconfigure")
        try:
            yield
        finally:
            path.write_text(usual, encoding="utf-8")
            assert host.succeeds("scontrol", "reconfigure")

    def fail_node(self, name: str) -> None:
        """Kill a node's daemon and every process of its jobs at once, as a power cut would."""
        daemon = self._pid(f"slurmd.{name}")
        if daemon is not None:
            host.kill(daemon, signal.SIGKILL)
        for pid, command in host.processes():
            if command.startswith("slurmstepd") and host.works_in(pid, self.folder / f"log/slurmd.{name}"):
                step = psutil.Process(pid)
                for member in (step, *step.children(recursive=True)):
                    host.kill(member.pid, signal.SIGKILL)

    def _ready(self) -> list[str]:
        """Names of the nodes that take jobs."""
        names = host.output("sinfo", "--noheader", "--Node", "--states", "idle,mix,alloc", "--format", "%N")
        return sorted(set(names.split()))

    def _check_host(self) -> None:
        if os.geteuid() != 0:
            raise host.UnavailableError("it needs root, because munge, slurmctld and slurmd are started")
        ours = LINK.is_symlink() and LINK.readlink().is_relative_to(self.folder)
        if (LINK.exists() or LINK.is_symlink()) and not ours:
            raise host.UnavailableError(f"{LINK} exists: this host has a SLURM of its own, which stays as it is")

    def _start_munge(self) -> None:
        folder, key = self.folder / "munge", self.folder / "munge/key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        # --force: munge wants no world-writable folder above its socket, and /tmp is one.
        files = [f"--key-file={key}", f"--socket={folder}/socket", f"--seed-file={folder}/seed"]
        files += [f"--pid-file={self.folder}/pid/munged", f"--log-file={self.folder}/log/munged"]
        self._start("munged", ["munged", "--force", *files])
        ask = ("munge", "--no-input", f"--socket={folder}/socket")
        host.wait(lambda: host.succeeds(*ask), "munge does not answer", 10)

    def _write_configuration(self) -> None:
        etc, here = self.folder / "etc", socket.gethostname().split(".")[0]
        lanes = [Lane(self, number) for number in range(self.lanes)]
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={here} NodeAddr=127.0.0.1 Port={self.port + 1 + number} CPUs={self.cpus}"
            f" RealMemory={self.memory_mb} Gres=gpu:{self.gpus} State=UNKNOWN"
            for number, name in enumerate(self.names)
        )
        template = (Path(__file__).parent / "slurm.conf").read_text(encoding="utf-8")
        (etc / "slurm.conf").write_text(
            template.format(
                host=here, folder=self.folder, port=self.port, nodes=nodes, requeue_wait=self.requeue_wait,
                lanes="\n".join(line for lane in lanes for line in lane.partitions()),
                calm=",".join(self.names[-self.nodes :]),
            ),
            encoding="utf-8",
        )  # fmt: skip
        for number in range(self.gpus):
            os.mknod(self.folder / f"gpu/gpu{number}", 0o666 | stat.S_IFCHR, os.stat("/dev/null").st_rdev)
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
            raise host.ClusterError(f"{name} does not start: {started.stdout}{started.stderr} (see {self.folder}/log)")

    def _pid(self, name: str) -> int | None:
        """Process of a daemon, if its pid file names a living process of that program."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / "pid" / name).read_text())
            if Path(f"/proc/{pid}/comm").read_text().strip() == name.split(".")[0]:
                return pid
        return None

    def _sweep(self) -> None:
        """End every process that works in the folder, and empty it."""
        if LINK.is_symlink() and LINK.readlink().is_relative_to(self.folder):
            LINK.unlink()
        host.wait(self._nothing_works, f"processes that work in {self.folder} do not end", 60)
        for path in self.folder.glob("*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _nothing_works(self) -> bool:
        """Kill what works in the folder; whether there was nothing to kill."""
        spared = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
        left = [pid for pid, _ in host.processes() if pid not in spared and host.works_in(pid, self.folder)]
        for pid in left:
            host.kill(pid, signal.SIGKILL)
        return not left


@dataclass(frozen=True)
class Lane:
    """Nodes and partitions of one scenario at a time."""

    cluster: Cluster
    number: int

    @property
    def low(self) -> str:
        """Partition whose jobs give way."""
        return f"low{self.number}"

    @property
    def high(self) -> str:
        """Partition whose jobs take the place of the others."""
        return f"high{self.number}"

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes that both have."""
        count = self.cluster.nodes
        return self.cluster.names[self.number * count : (self.number + 1) * count]

    def partitions(self) -> Iterator[str]:
        """Lines of slurm.conf."""
        common = f"Nodes={','.join(self.nodes)} MaxTime=14-0"
        yield f"PartitionName={self.low} {common} PriorityTier=1 PreemptMode=REQUEUE GraceTime={self.cluster.grace}"
        yield f"PartitionName={self.high} {common} PriorityTier=10 PreemptMode=OFF"

    def preempt(self, seconds: int = 3) -> None:
        """Let a job of the higher partition take all nodes for a moment."""
        assert host.output(
            "sbatch", "--parsable", "--partition", self.high, "--nodes", str(self.cluster.nodes), "--exclusive",
            "--time", "5", "--output", "/dev/null", "--chdir", str(self.cluster.folder), "--wrap", f"sleep {seconds}",
        )  # fmt: skip

    def clear(self) -> None:
        """End all jobs, and bring every node back."""
        for options in (("--signal", "KILL", "--full"), ()):
            for partition in (self.low, self.high):
                command = ["scancel", *options, "--user", "root", "--partition", partition]
                subprocess.run(command, capture_output=True, timeout=20, check=False)
        for name in self.nodes:
            self.cluster.start_node(name)
        jobs = ("squeue", "--noheader", "--partition", f"{self.low},{self.high}")
        host.wait(lambda: not host.output(*jobs), "jobs do not end", 60)
