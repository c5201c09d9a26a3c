"""Some pairs of points: their squared distances in both precisions, and how far those are from the exact ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dsr.evaluation.half import Single, to_half_in_range
from dsr.evaluation.neighbours import Flags, Points
from dsr.evaluation.parallel import slices

Double = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int32]

GATHERED = 64
"""Pairs whose features are gathered at a time: few enough for a core's cache."""
BALANCE = 2.0**12
"""Typical length of a vector in units of what rounding to float16 moves it by."""


@dataclass(frozen=True)
class Pairs:
    """Some pairs of a left and a right point, and what is known of their squared distances, all (p,)."""

    left: Indices
    right: Indices
    squared: Single

    def __getitem__(self, chosen: Flags | slice) -> Pairs:
        return Pairs(self.left[chosen], self.right[chosen], self.squared[chosen])

    def __len__(self) -> int:
        return len(self.squared)

    def swapped(self) -> Pairs:
        """Left and right exchanged, without pairs of a point and itself."""
        return Pairs(self.right, self.left, self.squared)[self.left != self.right]

    @classmethod
    def joined(cls, parts: list[Pairs]) -> Pairs:
        """All pairs of some parts, at least one."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("left", "right", "squared")))


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


@dataclass(frozen=True)
class Balls:
    """Balls around the points of a set, both (n,).

    In some precision a point may be in another one's ball if their exact squared distance is at most the other's
    ``reach`` and its own ``slack``.
    """

    reach: Double
    slack: Double

    @classmethod
    def around(cls, points: Bounded, radii: Double | Single) -> Balls:
        """Balls with bounds of the squared radii in both precisions."""
        return cls(radii + points.below, points.below)


def reaches(pairs: Pairs, left: Balls, right: Balls) -> tuple[Double, Double]:
    """Exact squared distances up to which right points may be in left balls, and left points in right ones, (p,)."""
    return (
        left.reach[pairs.left] + right.slack[pairs.right],
        right.reach[pairs.right] + left.slack[pairs.left],
    )


def in_float32(left: Points, right: Points, pairs: Pairs) -> Pairs:
    """Some pairs and their distances in float32, the sums in whatever order."""
    found = np.empty(len(pairs), np.float32)
    for part in slices(slice(0, len(pairs)), GATHERED):
        np.einsum("ij,ij->i", left.single[pairs.left[part]], right.single[pairs.right[part]], out=found[part])
    squared = left.single_norms[pairs.left] - 2 * found + right.single_norms[pairs.right]
    return Pairs(pairs.left, pairs.right, squared)


def error_of(left: Bounded, right: Bounded, pairs: Pairs) -> Double:
    """How far the distances of some pairs in float32 may be off, (p,)."""
    found: Double = left.error[pairs.left] + right.error[pairs.right]
    return found


@dataclass(frozen=True)
class Products:
    """Some pairs and their products u.v in both precisions, (p,)."""

    pairs: Pairs
    half: Single
    single: Single

    def swapped(self) -> Products:
        """As of pairs, which may change a distance by a rounding."""
        others = self.pairs.left != self.pairs.right
        return Products(self.pairs.swapped(), self.half[others], self.single[others])

    def distances(self, left: Points, right: Points) -> tuple[Single, Single]:
        """Squared distances in the protocol's arithmetic and in float32, (p,)."""
        half: Single = left.rounded_norms[self.pairs.left] - 2 * self.half
        to_half_in_range(half)
        half += right.rounded_norms[self.pairs.right]
        to_half_in_range(half)
        single: Single = left.single_norms[self.pairs.left] - 2 * self.single + right.single_norms[self.pairs.right]
        return np.maximum(half, 0, out=half), np.maximum(single, 0, out=single)


def products(left: Points, right: Points, pairs: Pairs) -> Products:
    """Products of some pairs, summed in float64 and then rounded: so they do not depend on the order of the sum."""
    half, single = np.empty((2, len(pairs)), np.float32)
    for part in slices(slice(0, len(pairs)), GATHERED):
        rows, columns = left.single[pairs.left[part]], right.single[pairs.right[part]]
        single[part] = np.einsum("ij,ij->i", rows, columns, dtype=np.float64)
        to_half_in_range(rows)
        to_half_in_range(columns)
        half[part] = np.einsum("ij,ij->i", rows, columns, dtype=np.float64)
    to_half_in_range(half)
    return Products(pairs, half, single)


def float32_error(points: Points, norms: Single | Double) -> Double:
    """How far float32 may move a squared distance about any centre, (n,), given the squared norms about it.

    In parts of 2^-24 of both norms: the norms and twice the product, which is their mean at most, are sums of d terms
    in whatever order and move by d each. The third d and 3 * 8 are for what else is rounded, 20 at most: features less
    the centre, multiples of a grid's step, distances, limits in float32.
    """
    found: Double = 3 * unit(points) * norms.astype(np.float64)
    return found


def unit(points: Points) -> float:
    """How far float32 may move a sum of squares as wide as the features, and a few operations more, relatively."""
    width: int = points.single.shape[1]
    return (width + 8) * 2.0**-24


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
