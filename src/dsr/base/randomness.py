"""Randomness as a function of (seed, purpose, step, index), never of a generator's history.

Every random number and order of the workflow comes from here. Nothing has to be saved to resume, and neither the
number of processes nor the batch size changes what is drawn.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch


def derive(seed: int, purpose: str, *position: int) -> int:
    """Return a 63-bit key for one draw; different arguments give independent keys."""
    text = ":".join(map(str, (seed, purpose, *position)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def uniforms(seed: int, purpose: str, step: int, count: int) -> npt.NDArray[np.float64]:
    """Uniform float64 numbers in [0, 1), shape (count,): entry i belongs to sample i of the step's global batch."""
    return np.random.default_rng(derive(seed, purpose, step)).random(count)


def permutation(seed: int, purpose: str, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """Return the order of ``count`` items in an epoch, int64, shape (count,)."""
    return np.random.default_rng(derive(seed, purpose, epoch)).permutation(count)


def batch_indices(seed: int, step: int, batch: int, images: int) -> npt.NDArray[np.int64]:
    """Return the image indices of the global batch of a 0-based optimizer step, int64, shape (batch,).

    Every epoch has its own permutation and ``images // batch`` steps; its last, incomplete batch is dropped.
    """
    epoch, position = divmod(step, images // batch)
    return _epoch_order(seed, epoch, images)[position * batch : (position + 1) * batch].copy()


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, images: int) -> npt.NDArray[np.int64]:
    return permutation(seed, "order", epoch, images)


def rank_slice(count: int, rank: int, size: int) -> slice:
    """Return the contiguous part of ``count`` items that belongs to process ``rank`` of ``size``.

    Parts differ by at most one item, and joined in the order of ranks they give all items.
    """
    return slice(count * rank // size, count * (rank + 1) // size)


def noise(
    seed: int, purpose: str, indices: Iterable[int], shape: Sequence[int], device: "torch.device | str" = "cpu"
) -> "torch.Tensor":
    """Standard normal float32 noise, shape (len(indices), *shape): row i depends on (seed, purpose, indices[i]) only.

    CPU and GPU generators differ, so the device kind is part of what is drawn.
    """
    # Jobs that draw nothing else do without PyTorch, which takes them seconds to import.
    import torch

    indices = list(indices)
    result = torch.empty((len(indices), *shape), device=device)
    generator = torch.Generator(device=device)
    for row, index in zip(result, indices, strict=True):
        row.normal_(generator=generator.manual_seed(derive(seed, purpose, index)))
    return result


def balanced_labels(classes: int, images: int, seed: int, total: int | None = None) -> "torch.Tensor":
    """Return the label of every image, int64 (images,): a permutation with images // classes of every class.

    Image i has label i of this pool, however many processes sample. The order is the release's for one process.
    ``total`` > ``images`` appends uniformly random labels up to that count, as the release does to fill its last
    batch.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    pool = torch.arange(classes).repeat_interleave(images // classes)
    pool = pool[torch.randperm(images, generator=generator)]
    tail = torch.randint(0, classes, ((total or images) - images,), generator=generator)
    return torch.cat([pool, tail])
