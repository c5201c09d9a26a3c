"""What a run reports while it goes: a bar or log lines, an append-only file of metrics, and TensorBoard."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dsr.base import files
from dsr.base.text import Progress
from dsr.training.learner import StepResult
from dsr.training.start import Job

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.jsonl"


class Metrics:
    """Reports of the first process, on the steps from ``first`` on.

    Every ``log_every`` steps a line goes to ``metrics.jsonl`` in the run directory, with means over the steps since
    the line before. Steps that were lost in a kill are done again, and so are their lines: of several lines with one
    step, the one with the highest ``restart`` counts.
    """

    def __init__(self, job: Job, first: int) -> None:
        self._job, self._path, self._batch = job, job.run_dir / METRICS, job.spec.recipe.batch
        previous = files.read_json_lines(self._path) if self._path.exists() else []
        self._restart = 1 + max((line["restart"] for line in previous), default=-1)
        self._step = first
        self._results: list[StepResult] = []
        self._board = _tensorboard(job.run_dir, first) if job.execution.tensorboard else None
        self._progress = Progress(job.last_step * self._batch, first * self._batch)

    def update(self, step: int, result: StepResult) -> None:
        """Report that ``step`` steps are done, the last of them with ``result``."""
        self._step = step
        self._results.append(result)
        self._progress.move(step * self._batch)
        if step % self._job.execution.log_every == 0 or step == self._job.last_step:
            self._report()

    def close(self) -> None:
        """Report what is not yet reported, and finish the bar and TensorBoard's file."""
        if self._results:
            self._report()
        self._progress.close()
        if self._board is not None:
            self._board.close()  # type: ignore[no-untyped-call]

    def _report(self) -> None:
        step, results, self._results = self._step, self._results, []
        epoch = step / self._job.spec.steps_per_epoch
        values = {
            "loss": statistics.fmean(result.loss for result in results),
            "grad_norm": statistics.fmean(result.grad_norm for result in results),
            "lr": results[-1].lr,
        }
        speed = self._progress.report(
            step * self._batch,
            f"step {step} of {self._job.last_step}, epoch {epoch:.2f}, loss {values['loss']:.4f}, gradient norm"
            f" {values['grad_norm']:.3f}, lr {values['lr']:.3g}",
        )
        values["images_per_second"] = round(speed, 2)
        if torch.cuda.is_available():
            values["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        about = {"steps": len(results), "time": round(time.time(), 3), "restart": self._restart}
        files.append_json_line(self._path, {"step": step, "epoch": epoch, **values, **about})
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"train/{name}", value, step)  # type: ignore[no-untyped-call]


def _tensorboard(run: Path, first: int) -> SummaryWriter:
    # Imported where it is used: next to an installed TensorFlow it loads that, which takes seconds.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / "tensorboard"), purge_step=first + 1)  # type: ignore[no-untyped-call]
