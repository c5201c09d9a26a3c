"""Batches of images as tensors, read ahead by other processes."""

import contextlib
import itertools
import math
import mmap
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from dsr.base.errors import UserError
from dsr.data.images import Images

Item = tuple[int, bool]
"""(index of an image, whether it is mirrored left to right)."""
Batch = tuple[torch.Tensor, torch.Tensor]
"""Pixels (n, 3, H, W) uint8 and labels (n,) int64."""
_Read = tuple[int, npt.NDArray[np.int64]]
"""Where the pixels of a batch are, and its labels."""

PREFETCH = 2
"""Batches that every worker reads ahead."""
POLL_SECONDS = 10
"""How often somebody who waits for a batch looks whether to stop."""
PATIENCE_SECONDS = 9 * 60
"""A batch that takes longer does not come; other processes wait for this one a little longer."""


class StoppedError(Exception):
    """The wait for a batch was given up because the process was asked to stop."""


def load(
    images: Images,
    batches: Iterable[list[Item]],
    *,
    workers: int = 0,
    pin_memory: bool = False,
    worker_init: Callable[[int], None] | None = None,
    stop: Callable[[], object] = lambda: False,
) -> Generator[Batch]:
    """Yield the batches of images that lists of items ask for, in their order; close it to stop its processes.

    Args:
        images: where the images are.
        batches: what each batch holds; none is larger than the first.
        workers: processes that read ahead; 0 reads in this one.
        pin_memory: leave batches in pinned memory, from which a copy to a GPU does not make the host wait.
        worker_init: called in each worker, with the worker's number.
        stop: whether to give up waiting for a worker.

    Raises:
        UserError: if workers cannot be started, an image cannot be read, or no batch came in :data:`PATIENCE_SECONDS`.
        StoppedError: if ``stop`` became true while no batch came.
    """
    asked = iter(batches)
    first = next(asked, [])
    # One place more than batches are on their way, so that none is written to before its batch was copied. Workers
    # inherit this memory. To hand over tensors, PyTorch needs /dev/shm and sockets in the temporary folder; where these
    # are small, or long names, it waits for ever.
    shape = (PREFETCH * workers + 1, len(first), 3, images.image_size, images.image_size)
    try:
        room = np.frombuffer(mmap.mmap(-1, max(1, math.prod(shape))), np.uint8, math.prod(shape)).reshape(shape)
        loaded = iter(
            DataLoader(
                _Batches(images, room),
                sampler=enumerate(itertools.chain([first], asked)),
                batch_size=None,
                # PyTorch's own would make tensors of the labels.
                collate_fn=_as_it_is,
                num_workers=workers,
                # Another kind of process would write into a copy of the memory.
                multiprocessing_context="fork" if workers else None,
                prefetch_factor=PREFETCH if workers else None,
                worker_init_fn=worker_init,
                timeout=POLL_SECONDS if workers else 0,
            )
        )
    except OSError as error:
        raise UserError(
            f"processes that read images cannot be started ({error}); make room in memory and in /dev/shm, or set"
            " execution.workers to 0"
        ) from None
    try:
        while (found := _next(loaded, stop)) is not None:
            place, labels = found
            pixels = torch.from_numpy(room[place][: len(labels)])
            yield pixels.pin_memory() if pin_memory else pixels.clone(), torch.from_numpy(labels)
    finally:
        # Workers may ignore the signals by which Python would stop them at its end, and then wait. PyTorch itself does
        # this when nothing refers to the iterator any more, but an error's traceback does.
        getattr(loaded, "_shutdown_workers", lambda: None)()
        for worker in getattr(loaded, "_workers", ()):
            worker.kill()


def _next(loaded: Iterator[_Read | UserError], stop: Callable[[], object]) -> _Read | None:
    """Wait for the next batch; None after the last."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            found = next(loaded, None)
        except RuntimeError as error:
            # PyTorch has no class of its own for this.
            if "timed out" not in str(error):
                raise
            if stop():
                raise StoppedError from None
            if time.monotonic() > end:
                raise UserError(
                    f"no images came for {PATIENCE_SECONDS // 60} minutes from the processes that read them; see to the"
                    " storage, or set execution.workers to 0, and run the same command again"
                ) from None
            continue
        if isinstance(found, UserError):
            raise found
        return found


def _as_it_is(read: Any) -> Any:
    return read


class _Batches(Dataset[_Read | UserError]):
    """Whole batches by their number and a list of items; the pixels go to ``room``, (places, n, 3, H, W).

    An error that the user can mend is returned: if it were raised in a worker, PyTorch would hide the message behind
    the worker's traceback.
    """

    def __init__(self, images: Images, room: npt.NDArray[np.uint8]) -> None:
        self._images, self._room = images, room

    def __getitem__(self, asked: tuple[int, list[Item]]) -> _Read | UserError:
        number, items = asked
        place = number % len(self._room)
        try:
            for pixels, (index, flip) in zip(self._room[place], items, strict=False):
                pixels[:] = self._images.read(index)[:, :: -1 if flip else 1].transpose(2, 0, 1)
        except UserError as error:
            return error
        return place, self._images.labels[[index for index, _ in items]]


def pixel_batches(
    images: Images, items: Sequence[Item], *, batch: int, device: torch.device, workers: int = 0
) -> Iterator[torch.Tensor]:
    """Yield the images that ``items`` asks for, in that order, as float32 pixels (<= batch, 3, H, W) in [0, 1]."""
    batches = [list(items[start : start + batch]) for start in range(0, len(items), batch)]
    with contextlib.closing(load(images, batches, workers=workers, pin_memory=device.type == "cuda")) as loaded:
        for pixels, _ in loaded:
            yield pixels.to(device, non_blocking=True).float() / 255
