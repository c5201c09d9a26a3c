"""Processes that read images ahead: what they need, and what is said when nothing comes from them."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from dsr.base.errors import EXIT_STOPPED, UserError
from dsr.data import loading
from dsr.data.images import Images
from dsr.data.loading import StoppedError, load
from dsr.launch.slurm import descendants
from dsr.training import checkpoint
from tests.processes import ended

from .test_training_processes import OFTEN, command, wait_for_step
from .training_row import tiny_job


class Slow(Images):
    """Images of nothing, each of which takes some time."""

    def __init__(self, seconds: float) -> None:
        self.labels, self.classes, self.image_size = np.zeros(4, np.int64), ["a"], 4
        self._seconds = seconds

    def read(self, index: int) -> np.ndarray:
        time.sleep(self._seconds)
        return np.full((4, 4, 3), index, np.uint8)


def test_images_come_where_temporary_folders_have_long_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 109)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    asked = [[(number % 4, False)] for number in range(20)]
    with contextlib.closing(load(Slow(0.001), asked, workers=2)) as batches:
        assert [pixels.unique().tolist() for pixels, _ in [*batches]] == [[number % 4] for number in range(20)]


def test_a_wait_ends_when_somebody_asks_or_when_it_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "POLL_SECONDS", 0.1)
    with contextlib.closing(load(Slow(0.5), [[(1, False)]], workers=1)) as patient:
        assert next(patient)[0].unique().tolist() == [1]
    asked = load(Slow(60), [[(1, False)]], workers=1, stop=lambda: True)
    with contextlib.closing(asked), pytest.raises(StoppedError):
        next(asked)
    monkeypatch.setattr(loading, "PATIENCE_SECONDS", 0.5)
    late = load(Slow(60), [[(1, False)]], workers=1)
    with contextlib.closing(late), pytest.raises(UserError, match=r"no images came .* set execution.workers to 0"):
        next(late)


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
