"""A checkout in which Snakemake submits to the test cluster, as a user's would."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.slurm.cluster import Cluster
from tests.slurm.host import PATIENCE, alive, kill, output, processes, stopped, told_to_end, wait, works_in

HERE = Path(__file__).resolve().parent
OVERLAYS = ("profiles/demo/config-overlay.yaml", f"{HERE}/small.yaml")
ROW = "dit-siglip2b-dsr"
EPOCH = 4
WEIGHTS = f"results/demo/rows/{ROW}/epoch-{EPOCH}/ema.safetensors"
STATISTICS = "results/demo/latents/siglip2-b-single.safetensors"
DECODER = "results/demo/decoders/siglip2-b.safetensors"


@dataclass
class Workspace:
    """A checkout, and the Snakemake processes started in it."""

    folder: Path
    overlays: tuple[str, ...] = OVERLAYS
    submissions: list[Submission] = field(default_factory=list)

    def copy(self, folder: Path) -> Workspace:
        """Copy everything, results included."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Workspace(folder, self.overlays)

    def forget_training(self) -> None:
        """Remove the row's weights and training state."""
        shutil.rmtree(self.folder / f"results/demo/rows/{ROW}")
        shutil.rmtree(self.folder / ".snakemake")

    def settle(self, partition: str) -> None:
        """Set the lines of the SLURM profile that every user sets, and look at jobs more often.

        Snakemake's environments are those of the tests, so conda is not needed.
        """
        path = self.folder / "slurm/config.yaml"
        text = path.read_text(encoding="utf-8")
        for pattern, replacement in (
            (r"slurm_partition: \w+", f"slurm_partition: {partition}"),
            (r"gpu_partition: \w+", f"gpu_partition: {partition}"),
            (r"(before-status-checks): \d+", r"\1: 5"),
            (r"(max-status-checks-per-second): [\d.]+", r"\1: 1"),
            (r"software-deployment-method: conda\n", ""),
        ):
            text, count = re.subn(pattern, replacement, text)
            assert count == 1, pattern
        path.write_text(text, encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """Return the environment of a user who has activated the project's own."""
        return {
            **os.environ,
            "PATH": f"{self.folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            # What killed processes leave there goes with the cluster.
            "TMPDIR": f"{Cluster.folder}/tmp",
            "XDG_CACHE_HOME": f"{Cluster.folder}/tmp/cache",
        }

    def command(self, *arguments: str) -> list[str]:
        """Return Snakemake's command line."""
        return [f"{Path(sys.executable).parent}/snakemake", "--configfile", *self.overlays, *arguments]

    def local(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end, without the cluster unless the arguments say so."""
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment(), text=True, timeout=6 * PATIENCE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip

    def submit(self, *arguments: str) -> Submission:
        """Start Snakemake with the SLURM profile."""
        path = self.folder / f"snakemake-{len(self.submissions)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                self.command("--profile", "slurm", *arguments), cwd=self.folder, env=self.environment(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.submissions.append(Submission(process, path))
        return self.submissions[-1]

    def abandon(self) -> None:
        """Kill every Snakemake started here; its jobs run on."""
        for submission in self.submissions:
            submission.kill()

    def close(self) -> None:
        """Kill what still works here: without cgroups SLURM loses sight of some processes."""
        for pid, _ in processes():
            if works_in(pid, self.folder):
                kill(pid, signal.SIGKILL)

    def workers(self, module: str) -> list[int]:
        """Processes that run one of the project's commands here, without the launchers around them."""
        around = ("dsr.commands.launch", "torch.distributed.run")
        return [
            pid
            for pid, command in processes()
            if f"-m {module} " in command and not any(name in command for name in around) and works_in(pid, self.folder)
        ]

    @contextlib.contextmanager
    def paused(self, module: str = "dsr.commands.train") -> Iterator[list[int]]:
        """Stop a command's processes, so that it is not done before something happens to it, however fast the host."""
        workers = self.workers(module)
        assert workers, f"{module} does not run"
        for pid in workers:
            kill(pid, signal.SIGSTOP)
        wait(lambda: all(stopped(pid) or not alive(pid) for pid in workers), f"{module} does not stop")
        try:
            yield workers
        finally:
            for pid in workers:
                kill(pid, signal.SIGCONT)

    def interrupt(self, event: Callable[[], object]) -> None:
        """Let something happen while training is under way, and wait until its processes know it or are dead."""
        with self.paused() as workers:
            event()
            wait(
                lambda: not any(stopped(pid) and not told_to_end(pid) for pid in workers),
                "training is not asked to end",
            )

    def training(self, name: str) -> Iterator[Path]:
        """Files of the row's training state, once there is one."""
        return self.folder.glob(f"results/demo/rows/{ROW}/run-*/{name}")

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of the training record; a line that is being written is left out."""
        text = "".join(path.read_text(encoding="utf-8") for path in self.training("metrics.jsonl"))
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def starts(self) -> int:
        """How often training has begun so far (with at least a few steps done)."""
        return len({line["restart"] for line in self.metrics()})

    def training_log(self) -> str:
        """Everything that all starts of the training wrote."""
        logs = self.training(f"train-{EPOCH}.log")
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)

    def weights(self) -> bytes:
        """Content of the milestone's file."""
        return (self.folder / WEIGHTS).read_bytes()

    def ends(self) -> Iterator[tuple[str, str]]:
        """Names and last lines of everything that was logged."""
        patterns = ("snakemake-*.log", ".snakemake/slurm_logs/**/*.log", "results/demo/rows/*/run-*/train-*.log")
        for path in sorted(path for pattern in patterns for path in self.folder.glob(pattern)):
            yield path.name, "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-60:])


@dataclass(frozen=True)
class Submission:
    """A Snakemake process that submits jobs."""

    process: subprocess.Popen[bytes]
    path: Path

    @property
    def log(self) -> str:
        """What Snakemake has said."""
        return self.path.read_text(encoding="utf-8", errors="replace")

    def jobs(self) -> list[str]:
        """Numbers of the jobs submitted so far."""
        return re.findall(r"has been submitted with SLURM jobid (\d+)", self.log)

    def job(self) -> str:
        """Wait for the number of the first submitted job."""
        self.until(lambda: bool(self.jobs()), "no job is submitted")
        return self.jobs()[0]

    def until(self, condition: Callable[[], bool], problem: str) -> None:
        """Wait for a condition while Snakemake runs."""
        wait(condition, lambda: f"{problem}\n{self.log[-3000:]}", process=self.process)

    def finish(self, seconds: float = 3 * PATIENCE) -> int:
        """Wait for Snakemake's end and return its exit code."""
        return self.process.wait(timeout=seconds)

    def kill(self) -> None:
        """Kill Snakemake outright."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def state(job: str) -> str:
    """State of a job ('' for one that SLURM does not know)."""
    return output("squeue", "--noheader", "--states", "all", "--jobs", job, "--format", "%T")


def node(job: str) -> str:
    """Node or nodes of a running job."""
    return output("squeue", "--noheader", "--jobs", job, "--format", "%N")
