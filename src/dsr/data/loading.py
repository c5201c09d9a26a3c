"""Batches of images as tensors, read ahead by other processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dsr.base.errors import UserError
from dsr.data.images import Images

Item = tuple[int, bool]
"""(index of an image, whether it is mirrored left to right)."""
Batch = tuple[torch.Tensor, torch.Tensor]
"""Pixels (n, 3, H, W) uint8 and labels (n,) int64."""


def load(
    images: Images,
    batches: Iterable[list[Item]],
    *,
    workers: int = 0,
    pin_memory: bool = False,
    worker_init: Callable[[int], None] | None = None,
) -> Generator[Batch]:
    """Yield the batches of images that lists of items ask for, in their order; close it to stop its processes.

    Args:
        images: where the images are.
        batches: an iterator over what each batch holds.
        workers: processes that read ahead; 0 reads in this one.
        pin_memory: leave batches in pinned memory, from which a copy to a GPU does not make the host wait.
        worker_init: called in each worker, with the worker's number.

    Raises:
        UserError: if an image cannot be read.
    """
    loaded = iter(
        DataLoader(
            _Batches(images),
            sampler=batches,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=worker_init,
        )
    )
    try:
        for found in loaded:
            if isinstance(found, UserError):
                raise found
            yield found
    finally:
        # Workers may ignore the signals by which Python would stop them at its end, and then wait. PyTorch itself does
        # this when nothing refers to the iterator any more, but an error's traceback does.
        getattr(loaded, "_shutdown_workers", lambda: None)()


class _Batches(Dataset[Batch | UserError]):
    """Whole batches by lists of items.

    An error that the user can mend is returned: if it were raised in a worker, PyTorch would hide the message behind
    the worker's traceback.
    """

    def __init__(self, images: Images) -> None:
        self._images = images

    def __getitem__(self, items: list[Item]) -> Batch | UserError:
        try:
            read = [self._images.read(index)[:, :: -1 if flip else 1] for index, flip in items]
        except UserError as error:
            return error
        pixels = torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).contiguous()
        return pixels, torch.from_numpy(self._images.labels[[index for index, _ in items]])


def pixel_batches(
    images: Images, items: Sequence[Item], *, batch: int, device: torch.device, workers: int = 0
) -> Iterator[torch.Tensor]:
    """Yield the images that ``items`` asks for, in that order, as float32 pixels (<= batch, 3, H, W) in [0, 1].

    Raises:
        UserError: if an image cannot be read.
    """
    batches = [list(items[start : start + batch]) for start in range(0, len(items), batch)]
    with contextlib.closing(load(images, batches, workers=workers, pin_memory=device.type == "cuda")) as loaded:
        for pixels, _ in loaded:
            yield pixels.to(device, non_blocking=True).float() / 255
