"""Which image is seen when: a function of (seed, step), so that nothing has to be saved to resume."""

import functools

import numpy as np
import numpy.typing as npt

from dsr.base.randomness import permutation


def batch_indices(seed: int, step: int, batch: int, images: int) -> npt.NDArray[np.int64]:
    """Return the image indices of the global batch of a 0-based optimizer step, int64, shape (batch,).

    Every epoch has its own permutation and ``images // batch`` steps; its last, incomplete batch is dropped.

    Raises:
        ValueError: if not even one batch fits into an epoch.
    """
    steps = images // batch
    if steps == 0:
        raise ValueError(f"a batch of {batch} does not fit into an epoch of {images} images")
    epoch, position = divmod(step, steps)
    return _epoch_order(seed, epoch, images)[position * batch : (position + 1) * batch].copy()


def rank_slice(count: int, rank: int, size: int) -> slice:
    """Return the contiguous part of ``count`` items that belongs to process ``rank`` of ``size``.

    Parts differ by at most one item, and joined in the order of ranks they give all items.
    """
    return slice(count * rank // size, count * (rank + 1) // size)


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, images: int) -> npt.NDArray[np.int64]:
    return permutation(seed, "order", epoch, images)
