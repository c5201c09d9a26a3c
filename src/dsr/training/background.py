"""Checkpoints that training does not wait for."""

import contextlib
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from dsr.training import checkpoint
from dsr.training.checkpoint import TrainState

log = logging.getLogger(__name__)


class Writer(contextlib.AbstractContextManager["Writer"]):
    """Copies the training state to memory, where a thread writes it to disk while training goes on.

    The copy lives as long as the writer: a second state of the model's, its averages' and its optimizer's size, in
    pinned memory where training is on a GPU. As a context manager it waits for the disk before it is left.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._copy: dict[str, Any] = {}
        self._pending: Future[None] | None = None

    def __exit__(self, *_: object) -> None:
        """Wait for the disk; an error of the writer is raised, on top of the one that is on its way, if any."""
        try:
            self.finish()
        finally:
            self._thread.shutdown()

    def save(self, state: TrainState) -> None:
        """Begin to save ``state``, after the one before it; returns when ``state`` may change again.

        Raises:
            OSError: if the state before could not be written.
        """
        self.finish()
        began = time.monotonic()
        self._copy = _copied(vars(state), self._copy)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        log.debug("Copied the training state in %.2f s", time.monotonic() - began)
        self._pending = self._thread.submit(self._write, TrainState(**self._copy))

    def finish(self) -> None:
        """Wait until everything is on disk.

        Raises:
            OSError: if it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def idle(self) -> bool:
        """Whether nothing is being written."""
        return self._pending is None or self._pending.done()

    def _write(self, state: TrainState) -> None:
        began = time.monotonic()
        path = checkpoint.save(self._run, state)
        log.info("Saved %s in %.1f s", path, time.monotonic() - began)


def _copied(value: Any, previous: Any) -> Any:
    """Copy nested mappings and lists of tensors to the CPU, into the memory of an earlier copy where it fits."""
    if isinstance(value, torch.Tensor):
        if not (isinstance(previous, torch.Tensor) and previous.shape == value.shape and previous.dtype == value.dtype):
            previous = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return previous.copy_(value.detach(), non_blocking=True)
    if isinstance(value, Mapping):
        earlier = previous if isinstance(previous, Mapping) else {}
        return {key: _copied(entry, earlier.get(key)) for key, entry in value.items()}
    if isinstance(value, list):
        before = previous if isinstance(previous, list) and len(previous) == len(value) else [None] * len(value)
        return [_copied(entry, old) for entry, old in zip(value, before, strict=True)]
    return value
