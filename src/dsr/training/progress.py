"""What a run reports while it goes: a bar or log lines, an append-only record, and TensorBoard."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import torch
from tqdm import tqdm

from dsr.base import files
from dsr.training.learner import StepResult

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"


class Progress:
    """Reports of the first process.

    Every ``log_every`` steps a line goes to ``metrics.jsonl`` in the run directory, with means over the steps since
    the line before. Steps that were lost in a kill are done again, and so are their lines: of several lines with one
    step, the one with the highest ``restart`` counts.
    """

    def __init__(
        self, run: Path, *, first: int, last: int, steps_per_epoch: int, batch: int, log_every: int, tensorboard: bool
    ) -> None:
        self._path, self._last = run / METRICS, last
        self._steps_per_epoch, self._batch, self._log_every = steps_per_epoch, batch, log_every
        previous = files.read_json_lines(self._path) if self._path.exists() else []
        self._restart = 1 + max((line["restart"] for line in previous), default=-1)
        self._step, self._lr = first, 0.0
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._since = time.perf_counter()
        self._board = _tensorboard(run, first) if tensorboard else None
        self._bar: tqdm[NoReturn] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=last * batch, initial=first * batch, unit="images", unit_scale=True, smoothing=0.05)

    def update(self, step: int, result: StepResult) -> None:
        """Report that ``step`` steps are done, the last of them with ``result``."""
        self._step, self._lr = step, result.lr
        self._losses.append(result.loss)
        self._norms.append(result.grad_norm)
        if self._bar is not None:
            self._bar.update(self._batch)
        if step % self._log_every == 0 or step == self._last:
            self._record()

    def close(self) -> None:
        """Report what is not yet reported, and finish the bar and TensorBoard's file."""
        if self._losses:
            self._record()
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            self._board.close()  # type: ignore[no-untyped-call]

    def _record(self) -> None:
        step, lr, now, count = self._step, self._lr, time.perf_counter(), len(self._losses)
        speed = count * self._batch / (now - self._since)
        values = {
            "loss": sum(self._losses) / count,
            "grad_norm": sum(self._norms) / count,
            "lr": lr,
            "images_per_second": round(speed, 2),
        }
        if torch.cuda.is_available():
            values["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        self._since, self._losses, self._norms = now, [], []
        epoch = step / self._steps_per_epoch
        about = {"steps": count, "time": round(time.time(), 3), "restart": self._restart}
        files.append_json_line(self._path, {"step": step, "epoch": epoch, **values, **about})
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"train/{name}", value, step)  # type: ignore[no-untyped-call]
        if self._bar is not None:
            self._bar.set_postfix(epoch=f"{epoch:.2f}", loss=f"{values['loss']:.4f}", lr=f"{lr:.2e}")
        else:
            hours = (self._last - step) * self._batch / speed / 3600
            log.info(
                "step %d of %d, epoch %.2f, loss %.4f, gradient norm %.3f, lr %.3g, %.1f images/s, %.1f h to go",
                step, self._last, epoch, values["loss"], values["grad_norm"], lr, speed, hours,
            )  # fmt: skip


def _tensorboard(run: Path, first: int) -> SummaryWriter:
    # Next to an installed TensorFlow it would load that, which takes seconds; this name in its place, it does not.
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / "tensorboard"), purge_step=first + 1)  # type: ignore[no-untyped-call]
