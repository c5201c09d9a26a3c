"""Randomness as a function of (seed, purpose, step, index), never of a generator's history.

Every random number of the workflow comes from here. Nothing has to be saved to resume, and neither the
number of processes nor the batch size changes what is drawn.
"""

from __future__ import annotations

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


def noise(
    seed: int, purpose: str, indices: Iterable[int], shape: Sequence[int], device: torch.device | str = "cpu"
) -> torch.Tensor:
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
