"""The arithmetic of the official evaluator's float16 path on a CPU, bit for bit, in NumPy.

TensorFlow computes squared distances of float16 features with every step rounded to float16; sums run in the order
of its tensor library. Values are held here as float32 numbers that lie on the float16 grid: NumPy's float32 is many
times faster than its float16.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Single = npt.NDArray[np.float32]

LANES = 8
"""Float16 numbers in one vector register of TensorFlow's CPU build."""
ACCUMULATORS = 4
"""Vector registers that a sum is spread over."""
LEAF = 200 * LANES
"""Longer sums are halved, recursively."""

OVERFLOW = 65520
"""The smallest number that rounds to infinity."""
ROWS = 64 * LANES
"""Rows that are squared and summed at a time; a few fit in a cache."""

_EXPONENT = 0x7F800000
"""Where a float32 keeps its power of two."""
_SMALLEST_NORMAL = (127 - 14) << 23
"""2^-14, of which float16 keeps as many digits behind the point as of smaller numbers."""
_SHIFT = (13 << 23) | 0x400000
"""Times 1.5 * 2^13: a float32 has 23 bits behind the first, a float16 has 10."""


def to_half(values: Single) -> Single:
    """Round to float16 (to nearest, ties to even; overflow gives infinity) and return the result as float32."""
    if not np.max(np.abs(values), initial=0) < OVERFLOW:
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    rounded = values.copy()
    to_half_in_range(rounded)
    return rounded


def to_half_in_range(values: Single) -> None:
    """Round in place as :func:`to_half`, several times faster than NumPy's conversion; |value| must be below 65520.

    Adding 1.5 * 2^13 times its power of two to a number leaves no room for more digits than float16 keeps.
    """
    shift = np.bitwise_and(values.view(np.int32), _EXPONENT)
    # NumPy compares with an array several times as fast as with a number.
    np.maximum(shift, np.full(shift.shape[-1:], _SMALLEST_NORMAL, np.int32), out=shift)
    np.add(shift, _SHIFT, out=shift)
    np.add(values, shift.view(np.float32), out=values)
    np.subtract(values, shift.view(np.float32), out=values)


def squared_norms(rows: Single) -> Single:
    """Squared L2 norm of each row (n, d) of one block, summed as TensorFlow sums float16; (n,), infinite on overflow.

    ``rows`` must be on the float16 grid and start where a block starts, or a multiple of 8 rows behind it: for a width
    that is no multiple of 8 the place where a long row is halved depends on the row's position in the block.
    """
    count, width = rows.shape
    result = np.empty(count, np.float32)
    positions = np.arange(count) * width % LANES
    with np.errstate(over="ignore", invalid="ignore"):
        for position in np.unique(positions):
            (chosen,) = np.nonzero(positions == position)
            for start in range(0, len(chosen), ROWS):
                part = chosen[start : start + ROWS]
                result[part] = _sum(_rounded(np.square(rows[part])), int(position))
    # No term is negative, so that a sum that is too large at one step is too large at the end.
    result[~(result < OVERFLOW)] = np.inf
    return result


def _rounded(values: Single) -> Single:
    to_half_in_range(values)
    return values


def _sum(values: Single, position: int) -> Single:
    """Sum each row; ``position`` is the first column's place relative to a full vector."""
    width = values.shape[1]
    if width <= LEAF:
        return _sum_leaf(values)
    split = -(-(position + -(-width // 2)) // LANES) * LANES - position
    return _rounded(_sum(values[:, :split], position) + _sum(values[:, split:], position + split))


def _sum_leaf(values: Single) -> Single:
    count, width = values.shape
    stride = ACCUMULATORS * LANES
    unrolled, vectorised = width // stride * stride, width // LANES * LANES
    partial = np.zeros((count, ACCUMULATORS, LANES), np.float32)
    for start in range(0, unrolled, stride):
        partial += values[:, start : start + stride].reshape(count, ACCUMULATORS, LANES)
        to_half_in_range(partial)
    lanes = partial[:, 0]
    for other in range(1, ACCUMULATORS):
        lanes = _rounded(lanes + partial[:, other])
    for start in range(unrolled, vectorised, LANES):
        lanes = _rounded(lanes + values[:, start : start + LANES])
    joined = lanes
    while joined.shape[1] > 1:  # in float32
        middle = joined.shape[1] // 2
        joined = joined[:, :middle] + joined[:, middle:]
    tail = np.zeros(count, np.float32)
    for column in range(vectorised, width):
        tail = _rounded(tail + values[:, column])
    return _rounded(tail + _rounded(joined[:, 0].copy()))
