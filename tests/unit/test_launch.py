"""The launcher in a SLURM job, with real signals and processes; only squeue and scontrol are stand-ins."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsr.launch.slurm import FRUITLESS_STARTS, STEPS, Attempts, SlurmJob, command_line
from tests.processes import stand_in

PATIENCE = 120
"""Seconds that a step may take on a loaded machine: every process imports PyTorch."""
# Starts a worker in a session of its own, as torchrun does, and reports how it ended.
LAUNCHER = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-m", "worker", *sys.argv[1:]], start_new_session=True).returncode)
"""
WORKER = """
import sys, time
from pathlib import Path
from tyro.conf import Positional
from dsr.base.command import command
from dsr.base.errors import EXIT_STOPPED
from dsr.training.process import stop_request

@command
def main(folder: Positional[Path], code: Positional[int]):
    with stop_request() as request:
        (folder.parent / "started").touch()
        while not request.reason and code == EXIT_STOPPED:
            time.sleep(0.02)
        time.sleep(0.3)
        (folder / "saved").touch()
    sys.exit(code)

main()
"""


class Job:
    """A fake SLURM job in which the launcher runs."""

    def __init__(self, folder: Path, squeue: str = "echo RUNNING") -> None:
        self.state, self.calls, self._folder = folder / "state", folder / "calls", folder
        self.state.mkdir()
        (folder / "launcher.py").write_text(LAUNCHER)
        (folder / "worker.py").write_text(WORKER)
        for name, answer in (("squeue", squeue), ("scontrol", "")):
            stand_in(folder / "bin" / name, f'echo "{name} $*" >> {self.calls}\n{answer}')
        self.processes: list[subprocess.Popen[str]] = []

    def start(
        self, code: int, options: tuple[str, ...] | None = None, step: bool = True, nodes: int = 1
    ) -> subprocess.Popen[str]:
        """Start the launcher as a rule's shell does, and wait until its worker works; of several nodes, the first."""
        environment = {
            **os.environ, "PATH": f"{self._folder}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
            "PYTHONPATH": f"{self._folder}:{os.environ['PYTHONPATH']}", "SLURM_STEP_NUM_NODES": f"{nodes}",
        }  # fmt: skip
        options = ("--state", f"{self.state}") if options is None else options
        started = self._folder / "started"
        started.unlink(missing_ok=True)
        if step:
            environment["SLURM_STEP_ID"] = "0"
        command = ["bash", "-c", ("trap '' TERM; " if step else "") + 'exec "$@"', "-", sys.executable, "-m"]
        command += ["dsr.commands.launch", *options, "launcher", f"{self.state}", f"{code}"]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        wait_for(lambda: started.exists() or process.poll() is not None or (nodes > 1 and children(process.pid)))
        return process

    def called(self) -> str:
        """Calls of squeue and scontrol so far."""
        return self.calls.read_text() if self.calls.exists() else ""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    for process in job.processes:
        # Workers outlive a killed launcher, so they are asked first.
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        process.kill()
        process.wait()


def children(pid: int | str) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_stopped_command_saves_and_is_requeued(job: Job) -> None:
    process = job.start(75)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: "scontrol requeue 7" in job.called())
    assert (job.state / "saved").exists()
    assert "squeue --noheader --jobs 7" in job.called()
    # SLURM ends it; until then it stays, because an exit would end the job.
    assert process.poll() is None


def test_a_node_that_waits_for_another_one_is_requeued_too(job: Job) -> None:
    process = job.start(75, nodes=2)
    time.sleep(5)  # until torchrun waits; it could be ended before, too
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: "scontrol requeue 7" in job.called())


def test_a_cancelled_job_is_not_requeued(tmp_path: Path) -> None:
    job = Job(tmp_path, squeue="echo COMPLETING")
    process = job.start(75)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 75
    assert "requeue" not in job.called()


def test_a_busy_controller_is_asked_again(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    job = Job(
        tmp_path, squeue=f"test -e {seen} && echo RUNNING && exit; touch {seen}; echo 'Socket timed out' >&2; exit 1"
    )
    process = job.start(75)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: "scontrol requeue 7" in job.called())
    process.kill()
    assert "Socket timed out" in process.stderr.read()


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_that_ends_by_itself_ends_the_job_with_its_code(job: Job, code: int) -> None:
    assert job.start(code).wait(PATIENCE) == code
    assert job.called() == ""


def test_a_command_that_finishes_although_stopped_is_done(job: Job) -> None:
    process = job.start(0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert job.called() == ""
    assert sorted(path.name for path in job.state.iterdir()) == ["saved"]


def test_without_a_state_nothing_is_requeued(job: Job) -> None:
    process = job.start(75, options=())
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 75
    assert job.called() == ""


def test_outside_a_step_the_launcher_becomes_the_command(job: Job) -> None:
    process = job.start(75, step=False)
    name = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    assert b"launcher" in name
    assert b"dsr.commands.launch" not in name


def test_a_rehearsal_stops_its_first_start_and_no_other(tmp_path: Path) -> None:
    record = tmp_path / "metrics.jsonl"
    program = f"import time; open({str(record)!r}, 'a').write('{{}}\\n' * {STEPS}); time.sleep(1)"
    (tmp_path / "steps.py").write_text(program)
    command = [sys.executable, "-m", "dsr.commands.launch", "--state", f"{tmp_path}", "--preempt-once", "steps"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    codes = [subprocess.run(command, env=environment, check=False).returncode for _ in range(2)]
    assert codes == [-signal.SIGTERM, 0]


def test_a_job_that_never_gets_anywhere_is_given_up(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    for start in range(FRUITLESS_STARTS):
        assert attempts.begin("7")
        assert attempts.may_continue() == (start + 1 < FRUITLESS_STARTS)
    # SLURM requeues a job whose node fails without asking.
    assert not attempts.begin("7")
    (tmp_path / "state-00000010.pt").touch()
    assert attempts.may_continue()
    assert attempts.begin("7")
    assert attempts.begin("7")
    assert attempts.may_continue()
    for _ in range(FRUITLESS_STARTS):
        attempts.begin("7")
    assert not attempts.may_continue()
    # Another job begins anew.
    attempts.begin("8")
    assert attempts.may_continue()


def test_a_job_that_started_too_often_does_not_start(job: Job) -> None:
    attempts = Attempts(job.state)
    for _ in range(FRUITLESS_STARTS):
        attempts.begin("7")
    process = job.start(0)
    assert process.wait(PATIENCE) == 1
    assert f"Started {FRUITLESS_STARTS} times in a row without a new file" in process.stderr.read()
    assert not (job.state.parent / "started").exists()


def test_processes_find_each_other_on_one_node_and_on_several() -> None:
    assert command_line("m", ["--run", "x"], 1, None)[1:] == ["-m", "m", "--run", "x"]
    one = command_line("m", ["--run", "x"], 8, None)
    assert " ".join(one[3:]) == "--standalone --local-addr 127.0.0.1 --nproc-per-node 8 -m -- m --run x"
    environment = {
        "SLURM_JOB_ID": "12345678", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_NODEID": "1",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
    }  # fmt: skip
    job = SlurmJob.current(environment)
    assert job == SlurmJob(id="12345678", nodes=2, node=1, address="10.0.0.7")
    two = command_line("m", [], 8, job)
    place = "--nnodes 2 --node-rank 1 --master-addr 10.0.0.7 --master-port 25678 --nproc-per-node 8"
    assert " ".join(two[3:13]) == place
    assert SlurmJob.current({}) is None


def test_torchrun_is_deaf_to_sigterm_and_its_workers_are_not(job: Job) -> None:
    process = job.start(75)
    wait_for(lambda: len(children(process.pid)) == 1)
    (launcher,) = children(process.pid)
    (worker,) = children(launcher)
    assert signal.SIGTERM in blocked(launcher)
    assert signal.SIGTERM not in blocked(worker)


def blocked(pid: str) -> set[int]:
    """Signals that a process has blocked."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk"))
    mask = int(line.split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}
