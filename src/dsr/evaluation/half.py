"""The arithmetic of the official evaluator's float16 path on a CPU, bit for bit, in NumPy.

TensorFlow computes squared distances of float16 features with every step rounded to float16; sums run in the order
of its tensor library. Values are held here as float32 numbers that lie on the float16 grid: NumPy's float32 is many
times faster than its float16.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Half = npt.NDArray[np.float16]
Single = npt.NDArray[np.float32]

LANES = 8
"""Float16 numbers in one vector register of TensorFlow's CPU build."""
ACCUMULATORS = 4
"""Vector registers that a sum is spread over."""
LEAF = 200 * LANES
"""Longer sums are halved, recursively."""

_DROPPED_BITS = 13  # a float32 has 23 mantissa bits, a float16 has 10


def to_half(values: Single) -> Single:
    """Round to float16 (to nearest, ties to even; overflow gives infinity) and return the result as float32."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def to_half_in_range(values: Single) -> None:
    """Round in place as :func:`to_half`, several times faster.

    Right for |value| < 65520 that are normal in float16 (>= 2^-14) or already multiples of 2^-24.
    """
    bits = values.view(np.int32)
    scratch = np.right_shift(bits, _DROPPED_BITS)
    np.bitwise_and(scratch, 1, out=scratch)
    np.add(bits, scratch, out=bits)
    np.add(bits, (1 << (_DROPPED_BITS - 1)) - 1, out=bits)
    np.bitwise_and(bits, -(1 << _DROPPED_BITS), out=bits)


def squared_norms(rows: Single) -> Single:
    """Squared L2 norm of each row (n, d) of one block, summed as TensorFlow sums float16; (n,), infinite on overflow.

    ``rows`` must be on the float16 grid and start where a block starts: for a width that is no multiple of 8 the
    place where a long row is halved depends on the row's position in the block.
    """
    count, width = rows.shape
    result = np.empty(count, np.float32)
    positions = np.arange(count) * width % LANES
    with np.errstate(over="ignore"):
        for position in np.unique(positions):
            chosen = positions == position
            squares = np.square(rows[chosen].astype(np.float16))
            result[chosen] = _sum(squares, int(position))
    return result


def _sum(values: Half, position: int) -> Half:
    """Sum each row; ``position`` is the first column's place relative to a full vector."""
    width = values.shape[1]
    if width <= LEAF:
        return _sum_leaf(values)
    split = -(-(position + -(-width // 2)) // LANES) * LANES - position
    return _sum(values[:, :split], position) + _sum(values[:, split:], position + split)


def _sum_leaf(values: Half) -> Half:
    count, width = values.shape
    stride = ACCUMULATORS * LANES
    unrolled, vectorised = width // stride * stride, width // LANES * LANES
    partial = np.zeros((count, ACCUMULATORS, LANES), np.float16)
    for start in range(0, unrolled, stride):
        partial += values[:, start : start + stride].reshape(count, ACCUMULATORS, LANES)
    lanes = partial[:, 0]
    for other in range(1, ACCUMULATORS):
        lanes = lanes + partial[:, other]
    for start in range(unrolled, vectorised, LANES):
        lanes = lanes + values[:, start : start + LANES]
    joined = lanes.astype(np.float32)
    while joined.shape[1] > 1:
        middle = joined.shape[1] // 2
        joined = joined[:, :middle] + joined[:, middle:]
    tail = np.zeros(count, np.float16)
    for column in range(vectorised, width):
        tail = tail + values[:, column]
    return tail + joined[:, 0].astype(np.float16)
