"""Training as real processes: kills, signals, several processes, and what they exit with."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dsr.base import files
from dsr.base.distributed import World, world
from dsr.base.errors import EXIT_STOPPED, UserError
from dsr.launch.slurm import descendants
from dsr.training import checkpoint
from dsr.training.loop import train
from dsr.training.process import stop_request
from dsr.training.start import Job
from tests.processes import start_ranks

from .training_row import ONE, STEPS, command_line, differences, final_state, largest_gap, tiny_job, tiny_spec

EPOCHS = 20
OFTEN = 1e-9
"""Minutes between checkpoints that make every step write one."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(row: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run-a"
    assert train(tiny_job(row, run, epoch=EPOCHS), ONE)
    return run


def _work(processes: World, job: Job) -> None:
    """Be one of some training processes."""
    sys.exit(0 if train(job, processes) else EXIT_STOPPED)


class Workers:
    """Training processes without a launcher, one a job."""

    def __init__(self, *jobs: Job) -> None:
        self.processes = start_ranks(_work, *((job,) for job in jobs))

    def kill(self) -> None:
        """SIGKILL all."""
        for process in self.processes:
            process.kill()

    def wait(self) -> set[int | None]:
        """Wait for all and return their exit codes."""
        for process in self.processes:
            process.join(60)
        return {process.exitcode for process in self.processes}

    def running(self) -> bool:
        """Whether none has ended."""
        return all(process.exitcode is None for process in self.processes)


def command(job: Job, *launcher: str) -> subprocess.Popen[str]:
    """Start the command that the workflow uses."""
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "dsr.commands.train", *command_line(job)],
        # Without USE_TF=0, transformers loads a TensorFlow that happens to be installed.
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "USE_TF": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(run: Path, step: int, running: Callable[[], bool]) -> None:
    """Return as soon as the run has saved a state at ``step`` or later."""
    deadline = time.monotonic() + 120
    while not any(saved >= step for saved in checkpoint.state_steps(run)):
        assert time.monotonic() < deadline
        assert running(), f"ended before step {step}"
        time.sleep(0.002)


def test_a_run_killed_at_random_moments_equals_one_never_stopped(row: Path, finished: Path, tmp_path: Path) -> None:
    job = tiny_job(row, tmp_path / "run-a", epoch=EPOCHS, checkpoint_minutes=OFTEN)
    generator = random.Random(0)
    for step in sorted(generator.sample(range(1, EPOCHS * STEPS - 5), 6)):
        workers = Workers(job)
        wait_for_step(job.run_dir, step, workers.running)
        time.sleep(generator.uniform(0, 0.03))
        workers.kill()
        assert workers.wait() == {-signal.SIGKILL}
    assert Workers(job).wait() == {0}
    assert differences(final_state(job.run_dir), final_state(finished)) == []
    assert differences(load_file(job.output), load_file(finished / f"ema-{EPOCHS}-0.9.safetensors")) == []
    assert not list(job.run_dir.glob(".*"))


def test_the_command_saves_on_sigterm_refuses_a_second_trainer_and_goes_on(
    row: Path, finished: Path, tmp_path: Path
) -> None:
    job = tiny_job(row, tmp_path / "run-a", epoch=10 * EPOCHS, checkpoint_minutes=OFTEN, workers=1)
    first = command(job)
    wait_for_step(job.run_dir, 3, lambda: first.poll() is None)
    with pytest.raises(UserError, match=rf"another trainer is using this run directory \(process {first.pid} on host"):
        train(job, ONE)
    first.send_signal(signal.SIGTERM)
    _, log = first.communicate(timeout=60)
    assert first.returncode == EXIT_STOPPED
    assert "received SIGTERM" in log
    assert "run the same command again" in log
    assert train(tiny_job(row, job.run_dir, epoch=EPOCHS), ONE)
    assert differences(final_state(job.run_dir), final_state(finished)) == []


def test_an_image_that_cannot_be_read_ends_the_command_and_its_workers(row: Path, tmp_path: Path) -> None:
    shutil.copytree(row / "images", tmp_path / "images")
    shard = tmp_path / "images" / "shard-00000.zip"
    content = bytearray(shard.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    shard.write_bytes(content)
    process = command(tiny_job(row, tmp_path / "run-a", images=tmp_path / "images" / "index.npz", workers=2))
    _, log = process.communicate(timeout=60)
    assert process.returncode not in (0, EXIT_STOPPED)
    assert f"{shard}: image " in log
    assert "Traceback" not in log


def test_two_processes_agree_with_one_and_with_their_own_interrupted_run(row: Path, tmp_path: Path) -> None:
    # A few epochs only: Adam turns the rounding of gradients that are nearly zero into steps that add up.
    alone, pair = (tiny_job(row, tmp_path / run, epoch=4) for run in ("run-1", "run-a"))
    assert train(alone, ONE)
    assert Workers(pair, pair).wait() == {0}
    assert largest_gap(final_state(alone.run_dir)["model"], final_state(pair.run_dir)["model"]) < 1e-6
    whole = dataclasses.replace(pair, epoch=EPOCHS)
    assert Workers(whole, whole).wait() == {0}

    broken = tiny_job(row, tmp_path / "run-b", epoch=EPOCHS, checkpoint_minutes=OFTEN)
    torchrun = command(broken, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    wait_for_step(broken.run_dir, 5, lambda: torchrun.poll() is None)
    torchrun.send_signal(signal.SIGTERM)
    _, log = torchrun.communicate(timeout=60)
    assert torchrun.returncode not in (0, 2)
    assert "received SIGTERM" in log
    stopped = checkpoint.state_steps(broken.run_dir)[0]
    assert 5 <= stopped < EPOCHS * STEPS
    assert Workers(broken, broken).wait() == {0}
    assert differences(final_state(broken.run_dir), final_state(whole.run_dir)) == []


def test_two_processes_agree_with_one_on_a_masked_loss(row: Path, tmp_path: Path) -> None:
    alone, pair = (tiny_job(row, tmp_path / run, spec=tiny_spec(mask_norm=2.8)) for run in ("run-1", "run-a"))
    assert train(alone, ONE)
    assert Workers(pair, pair).wait() == {0}
    assert largest_gap(final_state(alone.run_dir)["model"], final_state(pair.run_dir)["model"]) < 1e-6


def test_a_lost_process_ends_the_job_at_once_and_other_numbers_of_processes_go_on(row: Path, tmp_path: Path) -> None:
    job = tiny_job(row, tmp_path / "run-a", epoch=1000, checkpoint_minutes=OFTEN)
    torchrun = command(job, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    wait_for_step(job.run_dir, 3, lambda: torchrun.poll() is None)
    workers = [pid for pid in descendants(torchrun.pid) if b"RANK=1" in environment_of(pid)]
    os.kill(workers[0], signal.SIGKILL)
    began = time.monotonic()
    _, log = torchrun.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert torchrun.returncode == 1
    assert "process 0 of 2 lost contact with the others" in log
    assert re.search(r"rank +: 1 .*\n.*exitcode +: -9", log)

    step = checkpoint.state_steps(job.run_dir)[0]
    alone, four = (tmp_path / run / "run-a" for run in ("alone", "four"))
    for run in (alone, four):
        shutil.copytree(job.run_dir, run)
    epoch = step // STEPS + 3
    assert train(tiny_job(row, alone, epoch=epoch), ONE)
    continued = tiny_job(row, four, epoch=epoch)
    assert Workers(continued, continued, continued, continued).wait() == {0}
    losses = [
        [line["loss"] for line in files.read_json_lines(run / "metrics.jsonl") if line["restart"] == 1]
        for run in (alone, four)
    ]
    assert len(losses[0]) == epoch * STEPS - step
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def environment_of(pid: int) -> list[bytes]:
    """Entries of a process's environment."""
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_three_processes_resume_bit_for_bit(row: Path, tmp_path: Path) -> None:
    spec = tiny_spec(batch=6)
    whole, broken = (tiny_job(row, tmp_path / f"run-{run}", spec=spec, checkpoint_minutes=OFTEN) for run in "ab")
    assert Workers(whole, whole, whole).wait() == {0}
    workers = Workers(broken, broken, broken)
    wait_for_step(broken.run_dir, 3, workers.running)
    workers.kill()
    workers.wait()
    assert checkpoint.state_steps(broken.run_dir)[0] < broken.last_step
    assert Workers(broken, broken, broken).wait() == {0}
    assert differences(final_state(broken.run_dir), final_state(whole.run_dir)) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_on_one_process_ends_all_soon(row: Path, tmp_path: Path, rank: int) -> None:
    jobs = [tiny_job(row, tmp_path / "run-a"), tiny_job(row, tmp_path / "run-a")]
    jobs[rank] = dataclasses.replace(jobs[rank], encoder=tmp_path / "nowhere")
    began = time.monotonic()
    assert Workers(*jobs).wait() == {1}
    assert time.monotonic() - began < 30


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    message = r": 4 processes .* 2 GPUs for this job; .* execution\.processes to 2, or resources\.\*\.gpus to 4"
    with pytest.raises(UserError, match=message), world():
        pass


def test_a_process_whose_launcher_was_killed_wants_to_stop() -> None:
    reader, writer = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        if os.fork() == 0:
            with stop_request() as request:
                os.write(writer, b"started ")
                while not request.reason:
                    time.sleep(0.01)
                os.write(writer, request.reason.encode())
            os._exit(0)
        time.sleep(60)
    assert os.read(reader, 100) == b"started "
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    assert os.read(reader, 100) == b"lost its launcher"
