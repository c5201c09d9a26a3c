"""Training as real processes: kills, signals, several processes, and what they exit with."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dsr.training import checkpoint
from dsr.training.loop import train
from dsr.training.start import Job
from dsr.training.stop import EXIT_STOPPED

from .training_row import ONE, STEPS, command_line, differences, final_state, largest_gap, make_files, tiny_job

EPOCHS = 20
OFTEN = 1e-9
"""Minutes between checkpoints that make every step write one."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_files(tmp_path_factory.mktemp("row"))


@pytest.fixture(scope="module")
def finished(row: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run-a"
    assert train(tiny_job(row, run, epoch=EPOCHS), ONE)
    return run


def start(job: Job, processes: int) -> subprocess.Popen[str]:
    """Start the command as the workflow does: through torchrun, or directly for one process."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [sys.executable, *(torchrun if processes > 1 else []), "-m", "dsr.commands.train", *command_line(job)],
        # Without USE_TF=0, transformers loads a TensorFlow that happens to be installed.
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "USE_TF": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str] | multiprocessing.Process) -> None:
    """Return as soon as the run has saved a state at ``step`` or later."""
    deadline = time.monotonic() + 120
    while not any(saved >= step for saved in checkpoint.state_steps(run)):
        assert time.monotonic() < deadline
        code = process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
        assert code is None, f"ended with {code} before step {step}"
        time.sleep(0.002)


def train_alone(job: Job) -> None:
    torch.set_num_threads(1)
    train(job, ONE)


def test_a_run_killed_at_random_moments_equals_one_never_stopped(row: Path, finished: Path, tmp_path: Path) -> None:
    job = tiny_job(row, tmp_path / "run-a", epoch=EPOCHS, checkpoint_minutes=OFTEN)
    generator = random.Random(0)
    # Processes forked from a server that has imported everything start in no time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dsr.training.loop"])
    for step in sorted(generator.sample(range(1, EPOCHS * STEPS - 5), 6)):
        process = context.Process(target=train_alone, args=(job,), daemon=True)
        process.start()
        wait_for_step(job.run_dir, step, process)  # type: ignore[arg-type]
        time.sleep(generator.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    train_alone(job)
    assert differences(final_state(job.run_dir), final_state(finished)) == []
    assert differences(load_file(job.output), load_file(finished / f"ema-{EPOCHS}-0.9.safetensors")) == []
    assert not list(job.run_dir.glob(".*"))


def test_the_command_saves_on_sigterm_refuses_a_second_trainer_and_goes_on(
    row: Path, finished: Path, tmp_path: Path
) -> None:
    job = tiny_job(row, tmp_path / "run-a", epoch=10 * EPOCHS, checkpoint_minutes=OFTEN, workers=1)
    first = start(job, 1)
    wait_for_step(job.run_dir, 3, first)
    with pytest.raises(ValueError, match=f"another trainer is using this run directory .process {first.pid} on host"):
        train(job, ONE)
    first.send_signal(signal.SIGTERM)
    _, log = first.communicate(timeout=60)
    assert first.returncode == EXIT_STOPPED
    assert "received SIGTERM" in log
    assert "run the same command again" in log
    assert train(tiny_job(row, job.run_dir, epoch=EPOCHS), ONE)
    assert differences(final_state(job.run_dir), final_state(finished)) == []


def test_two_processes_agree_with_one_and_with_their_own_interrupted_run(
    row: Path, finished: Path, tmp_path: Path
) -> None:
    whole = tiny_job(row, tmp_path / "run-a", epoch=EPOCHS)
    process = start(whole, 2)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    gap = largest_gap(final_state(whole.run_dir)["model"], final_state(finished)["model"])
    assert gap < 1e-6

    broken = tiny_job(row, tmp_path / "run-b", epoch=EPOCHS, checkpoint_minutes=OFTEN)
    process = start(broken, 2)
    wait_for_step(broken.run_dir, 5, process)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "received SIGTERM" in log
    process = start(broken, 2)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    assert differences(final_state(broken.run_dir), final_state(whole.run_dir)) == []


def test_an_error_on_one_process_ends_all(row: Path, tmp_path: Path) -> None:
    job = tiny_job(row, tmp_path / "run-a", after=2)
    process = start(job, 2)
    began = time.monotonic()
    _, log = process.communicate(timeout=120)
    assert process.returncode != 0
    assert log.count("there is no saved state") == 1
    assert time.monotonic() - began < 60
