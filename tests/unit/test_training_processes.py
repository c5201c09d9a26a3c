"""Training as real processes: kills, signals, several processes, and what they exit with."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

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
from tests.processes import ended, start_module, start_ranks

from .training_row import ONE, STEPS, command_line, differences, final_state, largest_gap, tiny_job, tiny_spec

EPOCHS = 20
OFTEN = 1e-9
"""Minutes between checkpoints that make every step write one."""
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node")


@pytest.fixture(scope="module")
def finished(row: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run-a"
    assert train(tiny_job(row, run, epoch=EPOCHS), ONE)
    return run


def _work(processes: World, job: Job) -> None:
    """Be one of some training processes."""
    sys.exit(0 if train(job, processes) else EXIT_STOPPED)


def start(*jobs: Job) -> list[Any]:
    """Start training processes without a launcher, one a job."""
    return start_ranks(_work, *((job,) for job in jobs))


def command(job: Job, *launcher: str) -> tuple[Any, Path]:
    """Start the command that the workflow uses; also returns where its output goes."""
    log = job.run_dir.with_suffix(".log")
    return start_module(log, *launcher, "dsr.commands.train", *command_line(job)), log


def wait_for_step(run: Path, step: int, process: Any) -> None:
    """Return as soon as the run has saved a state at ``step`` or later."""
    deadline = time.monotonic() + 120
    while not any(saved >= step for saved in checkpoint.state_steps(run)):
        assert time.monotonic() < deadline
        assert process.exitcode is None, f"ended before step {step}"
        time.sleep(0.002)


def test_a_run_killed_at_random_moments_equals_one_never_stopped(row: Path, finished: Path, tmp_path: Path) -> None:
    job = tiny_job(row, tmp_path / "run-a", epoch=EPOCHS, checkpoint_minutes=OFTEN)
    generator = random.Random(0)
    for step in sorted(generator.sample(range(1, EPOCHS * STEPS - 5), 6)):
        (process,) = start(job)
        wait_for_step(job.run_dir, step, process)
        time.sleep(generator.uniform(0, 0.03))
        process.kill()
        assert ended(process) == {-signal.SIGKILL}
    assert ended(*start(job)) == {0}
    assert differences(final_state(job.run_dir), final_state(finished)) == []
    assert differences(load_file(job.output), load_file(finished / f"ema-{EPOCHS}-0.9.safetensors")) == []
    assert not list(job.run_dir.glob(".*"))


def test_the_command_saves_on_sigterm_refuses_a_second_trainer_and_goes_on(
    row: Path, finished: Path, tmp_path: Path
) -> None:
    job = tiny_job(row, tmp_path / "run-a", epoch=10 * EPOCHS, checkpoint_minutes=OFTEN, workers=1)
    first, log = command(job)
    wait_for_step(job.run_dir, 3, first)
    with pytest.raises(UserError, match=rf"another trainer is using this run directory \(process {first.pid} on host"):
        train(job, ONE)
    first.terminate()
    assert ended(first) == {EXIT_STOPPED}
    assert "received SIGTERM" in log.read_text()
    assert "run the same command again" in log.read_text()
    assert train(tiny_job(row, job.run_dir, epoch=EPOCHS), ONE)
    assert differences(final_state(job.run_dir), final_state(finished)) == []


def test_an_image_that_cannot_be_read_ends_the_command_and_its_workers(row: Path, tmp_path: Path) -> None:
    shutil.copytree(row / "images", tmp_path / "images")
    shard = tmp_path / "images" / "shard-00000.zip"
    content = bytearray(shard.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    shard.write_bytes(content)
    process, log = command(tiny_job(row, tmp_path / "run-a", images=tmp_path / "images" / "index.npz", workers=2))
    assert not ended(process) & {0, EXIT_STOPPED}
    assert f"{shard}: image " in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGKILL, 1, "ask for more memory (resources.*.mem_mb), or lower execution.workers"),
        (signal.SIGSTOP, EXIT_STOPPED, "Stopped (received SIGTERM) while no images came"),
    ],
)
def test_a_reading_process_that_ends_or_hangs_is_one_line_and_keeps_the_state(
    row: Path, tmp_path: Path, number: int, code: int, message: str
) -> None:
    job = tiny_job(row, tmp_path / "run-a", epoch=1000, checkpoint_minutes=OFTEN, workers=2)
    process, log = command(job)
    wait_for_step(job.run_dir, 3, process)
    for worker in descendants(process.pid)[1:]:
        os.kill(worker, number)
    if number == signal.SIGSTOP:
        time.sleep(1)
        process.terminate()
    assert ended(process) == {code}
    assert message in log.read_text()
    assert "Traceback" not in log.read_text()
    assert checkpoint.newest(job.run_dir)


@pytest.mark.parametrize("recipe", [{}, {"mask_norm": 2.8}])
def test_three_processes_agree_with_one(row: Path, tmp_path: Path, recipe: dict[str, Any]) -> None:
    # A few epochs only: Adam turns the rounding of gradients that are nearly zero into steps that add up.
    alone, shared = (tiny_job(row, tmp_path / run, spec=tiny_spec(batch=6, **recipe)) for run in ("run-1", "run-a"))
    assert train(alone, ONE)
    assert ended(*start(shared, shared, shared)) == {0}
    assert largest_gap(final_state(alone.run_dir)["model"], final_state(shared.run_dir)["model"]) < 1e-6


def test_three_interrupted_processes_resume_bit_for_bit(row: Path, tmp_path: Path) -> None:
    spec = tiny_spec(batch=6)
    broken = tiny_job(row, tmp_path / "run-a", epoch=1000, spec=spec, checkpoint_minutes=OFTEN)
    torchrun, log = command(broken, *TORCHRUN, "3", "-m")
    wait_for_step(broken.run_dir, 5, torchrun)
    torchrun.terminate()
    assert not ended(torchrun) & {0, 2}
    assert "received SIGTERM" in log.read_text()
    stopped = checkpoint.state_steps(broken.run_dir)[0]
    for run in (broken.run_dir, whole := tmp_path / "run-b"):
        job = tiny_job(row, run, epoch=stopped // spec.steps_per_epoch + 3, spec=spec)
        assert ended(*start(job, job, job)) == {0}
    assert differences(final_state(broken.run_dir), final_state(whole)) == []
    assert stopped < final_state(whole)["step"]


def test_a_lost_process_ends_the_job_at_once_and_other_numbers_of_processes_go_on(row: Path, tmp_path: Path) -> None:
    job = tiny_job(row, tmp_path / "run-a", epoch=1000, checkpoint_minutes=OFTEN)
    torchrun, log = command(job, *TORCHRUN, "2", "-m")
    wait_for_step(job.run_dir, 3, torchrun)
    (worker,) = (pid for pid in descendants(torchrun.pid) if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(worker, signal.SIGKILL)
    began = time.monotonic()
    assert ended(torchrun) == {1}
    assert time.monotonic() - began < 60
    assert "process 0 of 2 lost contact with the others" in log.read_text()
    assert re.search(r"rank +: 1 .*\n.*exitcode +: -9", log.read_text())

    step = checkpoint.state_steps(job.run_dir)[0]
    epoch, losses = step // STEPS + 3, []
    for processes in (1, 4):
        continued = tiny_job(row, shutil.copytree(job.run_dir, tmp_path / f"{processes}" / "run-a"), epoch=epoch)
        assert ended(*start(*[continued] * processes)) == {0}
        lines = files.read_json_lines(continued.run_dir / "metrics.jsonl")
        losses.append([line["loss"] for line in lines if line["restart"] == 1])
    assert len(losses[0]) == epoch * STEPS - step
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_on_one_process_ends_all_soon(row: Path, tmp_path: Path, rank: int) -> None:
    jobs = [tiny_job(row, tmp_path / "run-a"), tiny_job(row, tmp_path / "run-a")]
    jobs[rank] = dataclasses.replace(jobs[rank], encoder=tmp_path / "nowhere")
    began = time.monotonic()
    assert ended(*start(*jobs)) == {1}
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
