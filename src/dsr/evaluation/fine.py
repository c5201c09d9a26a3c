"""Squared distances of some pairs: in float32, and as :mod:`dsr.evaluation.neighbours` has them in both precisions."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from dsr.evaluation.coarse import Double, Indices, Pairs, float32_error, unit
from dsr.evaluation.half import Single, to_half_in_range
from dsr.evaluation.neighbours import Flags, Points
from dsr.evaluation.parallel import slices

GATHERED = 64
"""Pairs whose features are gathered at a time: few enough for a core's cache."""
BALANCE = 2.0**12
"""Typical length of a vector in units of what rounding to float16 moves it by."""


class CrowdedError(Exception):
    """So many points are close together that it is faster to compute all pairs."""


class Budget:
    """How many pairs may be computed one by one."""

    def __init__(self, pairs: int) -> None:
        self.left = pairs
        self._lock = threading.Lock()

    def spend(self, pairs: int) -> None:
        """Take some before they are computed.

        Raises:
            CrowdedError: if fewer are left.
        """
        with self._lock:
            self.left -= pairs
            if self.left < 0:
                raise CrowdedError


class Bounded:
    """Points, and how far rounding may move their squared distances from the exact ones.

    A distance in float32 is off by the sum of both points' ``error`` at most; in either precision it is smaller by the
    sum of what they are ``below`` at most, and larger by the sum of what they are ``above``; all (n,).

    Args:
        points: points whose float16 distances are in range.
        signed: whether a feature of theirs, or of points that they are compared with, may be negative.
    """

    def __init__(self, points: Points, *, signed: bool) -> None:
        self.points = points
        self.error = float32_error(points, points.single_norms)
        moves, norms = half_moves(points, signed=signed), points.rounded_norms.astype(np.float64) - points.single_norms
        self.below, self.above = np.maximum(self.error, moves - norms), np.maximum(self.error, moves + norms)

    def reach(self, some: slice | Indices, half: Single, single: Single) -> Double:
        """How far a point can be, exactly, from some of these within some radii, less what it is below itself."""
        found: Double = np.maximum(half + self.below[some], single + self.error[some])
        return found


@dataclass(frozen=True)
class Products:
    """Some pairs of a left and a right point, and their products u.v in both precisions, all (p,)."""

    left: Indices
    right: Indices
    half: Single
    single: Single

    def __getitem__(self, chosen: Flags) -> Products:
        return Products(self.left[chosen], self.right[chosen], self.half[chosen], self.single[chosen])

    def swapped(self) -> Products:
        """Left and right exchanged, which may change a distance by a rounding."""
        return Products(self.right, self.left, self.half, self.single)

    def distances(self, left: Bounded, right: Bounded) -> tuple[Single, Single]:
        """Squared distances in the protocol's arithmetic, and in float32; both (p,)."""
        half: Single = left.points.rounded_norms[self.left] - 2 * self.half
        to_half_in_range(half)
        half += right.points.rounded_norms[self.right]
        to_half_in_range(half)
        single: Single = left.points.single_norms[self.left] - 2 * self.single + right.points.single_norms[self.right]
        return np.maximum(half, 0, out=half), np.maximum(single, 0, out=single)


def closer(left: Bounded, right: Bounded, pairs: Pairs, reach: Double) -> Pairs:
    """Pairs whose squared distance may be at most ``reach`` (p,), with their distances in float32."""
    found = np.empty(len(pairs), np.float32)
    features, others = _memory(left, len(pairs)), _memory(right, len(pairs))
    for part in slices(slice(0, len(pairs)), GATHERED):
        np.einsum(
            "ij,ij->i",
            _gathered(left, pairs.left[part], features),
            _gathered(right, pairs.right[part], others),
            out=found[part],
        )
    squared = left.points.single_norms[pairs.left] - 2 * found + right.points.single_norms[pairs.right]
    return Pairs(pairs.left, pairs.right, squared)[squared - error_of(left, right, pairs) <= reach]


def error_of(left: Bounded, right: Bounded, pairs: Pairs) -> Double:
    """How far the distances of some pairs in float32 may be off, (p,)."""
    found: Double = left.error[pairs.left] + right.error[pairs.right]
    return found


def products(left: Bounded, right: Bounded, pairs: Pairs) -> Products:
    """Products in both precisions, summed in float64 and then rounded.

    The sums of a large matrix product in float32 depend on its implementation; it is faster where pairs of one left
    point follow each other.
    """
    half, single = np.empty((2, len(pairs)), np.float32)
    features, repeated, others = (_memory(of, len(pairs)) for of in (left, left, right))
    for part in slices(slice(0, len(pairs)), GATHERED):
        once, at = np.unique(pairs.left[part], return_inverse=True)
        rows, columns = _gathered(left, once, features), _gathered(right, pairs.right[part], others)
        same = repeated[: len(columns)]
        single[part] = np.einsum("ij,ij->i", rows.take(at, axis=0, out=same, mode="clip"), columns, dtype=np.float64)
        to_half_in_range(rows)
        to_half_in_range(columns)
        columns *= rows.take(at, axis=0, out=same, mode="clip")  # exact: twice 11 bits are no more than 24
        half[part] = columns.sum(axis=1, dtype=np.float64)
    to_half_in_range(half)
    return Products(pairs.left, pairs.right, half, single)


def _memory(of: Bounded, pairs: int) -> Single:
    """For features that are gathered; to take new memory each time costs more than gathering."""
    return np.empty((min(GATHERED, pairs), of.points.single.shape[1]), np.float32)


def _gathered(of: Bounded, points: Indices, memory: Single) -> Single:
    """Features of some points, (p, d)."""
    # Without "clip" NumPy gathers into memory of its own first.
    return of.points.single.take(points, axis=0, out=memory[: len(points)], mode="clip")


def half_moves(points: Points, *, signed: bool) -> Double:
    """How far float16 may move a squared distance (n,), but for the norms; ``signed`` if a feature may be negative.

    Moves m of u and m' of v move 2 u.v by at most 2 (|u||m'| + |m||v| + |m||m'|), and 2 |u||m'| is at most
    |u|^2 / c + c |m'|^2 for any c. Rounding 2 u.v, |u|^2 - 2 u.v and the distance moves each by 2^-11 times itself; in
    parts of both norms, each the exact one or the protocol's if that is larger, the first and the last are 1 together
    and the second is at most 1 where no feature of either set is negative. Otherwise they are 1, 2 and 2 at most. Added
    to that are the error of the float32 norm, to which the protocol's is compared, and 1 % for products of errors.
    """
    norms, moves = points.single_norms.astype(np.float64), points.moves.astype(np.float64)
    roundings = (5 if signed else 2) * 2.0**-11 * np.maximum(norms, points.rounded_norms)
    found: Double = 1.01 * ((1 / BALANCE + unit(points)) * norms + (BALANCE + 1) * moves + roundings)
    return found
