"""Rough squared distances of many pairs at a time, and how wrong they may be.

A rough distance is ``rows(u) + columns(v) - weight * number(u, v)``, where the numbers of a rectangle of pairs are one
product of matrices. What is sought are the pairs that may be near enough to matter; the others, which are nearly all,
cost no more than two comparisons of their number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr.evaluation import neighbours
from dsr.evaluation.half import Single
from dsr.evaluation.neighbours import Flags, Points
from dsr.evaluation.parallel import slices

Double = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int32]
Numbers = npt.NDArray[Any]
"""Of a rectangle of pairs (m, c): int32 or float32."""

TALL = 4
"""Most rows of a rectangle, in tiles; its columns are one tile. Tall rectangles are multiplied fastest."""
LOW = 2
"""Rows of the first rectangles, in tiles."""
SECTIONS = 2
"""Parts of a tile for each neighbour that is sought; of each part one is found."""
STRIP = 250
"""Rows that are compared at a time: few enough for a core's cache."""


@dataclass(frozen=True)
class Pairs:
    """Some pairs of a left and a right point, and their squared distances as far as they are known, all (p,)."""

    left: Indices
    right: Indices
    squared: Single

    def __getitem__(self, chosen: Flags | Indices | slice) -> Pairs:
        return Pairs(self.left[chosen], self.right[chosen], self.squared[chosen])

    def __len__(self) -> int:
        return len(self.squared)

    def swapped(self) -> Pairs:
        """Left and right exchanged."""
        return Pairs(self.right, self.left, self.squared)

    @classmethod
    def joined(cls, parts: list[Pairs]) -> Pairs:
        """All pairs of some parts, at least one."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("left", "right", "squared")))


@dataclass(frozen=True)
class Balls:
    """Balls around the points of a set, both (n,).

    A point may be in another one's ball if their squared distance is at most the other's ``reach`` and its own
    ``slack``.
    """

    reach: Double
    slack: Double


@dataclass(frozen=True)
class Side:
    """Points of the rows or of the columns of a rectangle, and what each adds to a distance and its error, all (m,)."""

    points: Indices
    offset: Double
    error: Double


@dataclass(frozen=True)
class Rectangle:
    """Rough squared distances of some left and some right points, off by the sum of both errors at most."""

    rows: Side
    columns: Side
    numbers: Numbers
    """(m, c); whole ones are below 2^29."""
    weight: float

    def within(self, left: Balls, right: Balls) -> Pairs:
        """Pairs of which one point may be in the other one's ball."""
        rows, columns = (side.offset - side.error for side in (self.rows, self.columns))
        reach, slack = left.reach[self.rows.points], left.slack[self.rows.points]
        other_reach, other_slack = right.reach[self.columns.points], right.slack[self.columns.points]
        limits = [self._limits(rows - reach, columns - other_slack), self._limits(rows - slack, columns - other_reach)]
        found = []
        for start in range(0, len(rows), STRIP):
            strip = slice(start, start + STRIP)
            near = np.zeros(self.numbers[strip].shape, np.bool_)
            for row, column in limits:
                near |= self.numbers[strip] - column >= row[strip, None]
            found.append((np.flatnonzero(near) + start * len(columns)).astype(np.int32))
        at = np.concatenate(found)
        row, column = np.divmod(at, len(columns))
        squared = self.rows.offset[row] + self.columns.offset[column] - self.weight * self.numbers.ravel()[at]
        return Pairs(self.rows.points[row], self.columns.points[column], squared.astype(np.float32))

    def nearest(self, count: int) -> tuple[Numbers, Indices]:
        """For each row the nearest point of each of some sections of the columns: nearness and points, both (m, s)."""
        numbers = self.numbers - self._limits(self.rows.offset, self.columns.offset)[1]
        width = -(-numbers.shape[1] // (SECTIONS * count))
        sections = slices(slice(0, numbers.shape[1]), width)
        best = np.stack([part.start + numbers[:, part].argmax(axis=1) for part in sections], axis=1)
        return np.take_along_axis(numbers, best, axis=1), self.columns.points[best]

    def _limits(self, rows: Double, columns: Double) -> tuple[Numbers, Numbers]:
        """Limits of numbers from limits of distances, which may be infinite.

        A number that is at least the sum of both limits is so after they are rounded: whole ones down, which lets more
        numbers pass, float32 ones anyhow, which `float32_error` makes up for.
        """
        rows, columns = rows / self.weight, columns / self.weight
        if self.numbers.dtype == np.float32:
            return rows.astype(np.float32), columns.astype(np.float32)
        # As numbers are below 2^29, no difference overflows, and what is cut off decides nothing.
        kind, most = (np.int32, 2.0**29) if np.abs(columns).max() <= 2.0**29 else (np.int64, 2.0**60)
        rows, columns = np.floor(rows).clip(-2 * most, 2 * most), np.floor(columns).clip(-most, most)
        return rows.astype(kind), columns.astype(kind)


class Coarse(ABC):
    """Rough squared distances between two sets of points, each set in some order.

    Args:
        orders: for both sets, the points in the order that they have in rectangles, (n,).
        errors: for both sets, how far each point may move distances, (n,).
    """

    def __init__(self, orders: tuple[Indices, Indices], errors: tuple[Double, Double]) -> None:
        self.left_order, self.right_order = orders
        self.left_errors, self.right_errors = errors

    @abstractmethod
    def rectangle(self, part: slice, other: slice) -> Rectangle:
        """Rough distances of left points, within one of `parts`, and of one tile of right points."""

    def least(self, pairs: Pairs) -> Double:
        """The smallest that the squared distances of pairs from rectangles may be, (p,)."""
        found: Double = pairs.squared - self.left_errors[pairs.left] - self.right_errors[pairs.right]
        return found

    def parts(self, tiles: int = TALL) -> list[slice]:
        """Left points, so many tiles at a time."""
        tall = slices(slice(0, len(self.left_order)), TALL * neighbours.TILE)
        return [low for part in tall for low in slices(part, tiles * neighbours.TILE)]

    def places(self) -> list[tuple[slice, slice]]:
        """Rectangles that make up all pairs."""
        return [(part, other) for other in self._columns() for part in self.parts()]

    def places_above_diagonal(self) -> list[tuple[slice, slice]]:
        """Rectangles with each pair of points in different low parts of one set once.

        Those come first that tell all points about others, and are low: what they tell helps those after them.
        """
        places = []
        low = LOW * neighbours.TILE
        for other in self._columns():
            for part in self.parts():
                above = slice(part.start, min(part.stop, other.start // low * low))
                height = low if other.start < part.stop else TALL * neighbours.TILE
                places += [(rows, other) for rows in slices(above, height)]
        return sorted(places, key=lambda place: place[1].start - place[0].start)

    def _columns(self) -> list[slice]:
        return slices(slice(0, len(self.right_order)), neighbours.TILE)


class InSingle(Coarse):
    """Products in float32: slower, and hardly wrong."""

    def __init__(self, left: Points, right: Points) -> None:
        self._left, self._right = left, right
        super().__init__(
            (np.arange(left.count, dtype=np.int32), np.arange(right.count, dtype=np.int32)),
            (float32_error(left, left.single_norms), float32_error(right, right.single_norms)),
        )

    def rectangle(self, part: slice, other: slice) -> Rectangle:
        """Of products and squared norms."""
        norms, others = self._left.single_norms[part], self._right.single_norms[other]
        return Rectangle(
            Side(self.left_order[part], norms.astype(np.float64), self.left_errors[part]),
            Side(self.right_order[other], others.astype(np.float64), self.right_errors[other]),
            self._left.single[part] @ self._right.single[other].T,
            2,
        )


def farthest(pairs: Pairs, left: Balls, right: Balls) -> Double:
    """Squared distances beyond which pairs are in neither of their points' balls, (p,)."""
    return np.maximum(
        left.reach[pairs.left] + right.slack[pairs.right], right.reach[pairs.right] + left.slack[pairs.left]
    )


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
