"""Rough squared distances of all pairs of points, and how wrong they may be.

They come from products of matrices, of whole numbers of 8 bits where the processor has instructions for them, which
are several times as fast as those of float32. For these, points are moved to the nearest point of a grid. By how much
is known for each point, and bounds what that does to its distances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dsr.evaluation import int8, neighbours
from dsr.evaluation.half import Single
from dsr.evaluation.int8 import HALFWAY, LEVELS, Bytes, Product, SignedBytes
from dsr.evaluation.neighbours import Points
from dsr.evaluation.pairs import Balls, Double, Pairs, float32_error, unit
from dsr.evaluation.parallel import run, slices, spread

TALL = 4
"""Most rows of a rectangle of pairs, in tiles; its columns are one tile. Tall rectangles are multiplied fastest."""
STRIP = 250
"""Rows that are compared at a time, or points that are moved: few enough for a core's cache."""
SAMPLE = 200
"""Points of each set that a grid is fitted to."""
BEYOND = 1e-5
"""Share of their features beyond either end of the grid: the fewer, the coarser the grid."""
FINEST = 2.0**-20
"""Smallest step of a grid in units of the longest feature vector."""


@dataclass(frozen=True)
class Side:
    """What each point of a set adds to its distances and to their errors, both (n,)."""

    offset: Double
    error: Double

    def least(self, part: slice) -> Double:
        """The smallest that some points may add to an exact distance, (m,)."""
        found: Double = self.offset[part] - self.error[part]
        return found


@dataclass(frozen=True)
class Rough:
    """Squared distances ``left + right - weight * product``, off by the sum of both errors at most."""

    left: Side
    right: Side
    weight: float
    product: Callable[[slice, slice], Single]
    """Of up to `TALL` tiles of left points and one tile of right points, (m, c)."""

    def places(self, *, of_one_set: bool) -> list[tuple[slice, slice]]:
        """Rectangles that make up all pairs, or, in one set, all pairs with the left point before or at the right one.

        In one set they hold some other pairs too.
        """
        found = []
        for columns in slices(slice(0, len(self.right.offset)), neighbours.TILE):
            rows = slice(0, columns.stop if of_one_set else len(self.left.offset))
            found += [(part, columns) for part in slices(rows, TALL * neighbours.TILE)]
        return found

    def near(self, rows: slice, columns: slice, left: Balls, right: Balls) -> Pairs:
        """Pairs of a rectangle of which one point may be in the other one's ball, with their rough distances."""
        products = self.product(rows, columns)
        least, other_least = self.left.least(rows), self.right.least(columns)
        # A distance is at most reach + slack where the product is at least what is left of these.
        limits = [
            self._limits(least - left.reach[rows], other_least - right.slack[columns]),
            self._limits(least - left.slack[rows], other_least - right.reach[columns]),
        ]
        found = []
        for part in slices(slice(0, len(products)), STRIP):
            near = np.zeros(products[part].shape, np.bool_)
            for row, column in limits:
                near |= products[part] - column >= row[part, None]
            found.append(np.flatnonzero(near) + part.start * len(other_least))
        at = np.concatenate(found).astype(np.int32)
        row, column = np.divmod(at, len(other_least))
        row, column, product = row + np.int32(rows.start), column + np.int32(columns.start), products.ravel()[at]
        squared = self.left.offset[row] + self.right.offset[column] - self.weight * product
        return Pairs(row, column, squared.astype(np.float32))

    def nearest(self, tile: slice, count: int) -> Pairs:
        """Pairs of every point of a tile of one set and the ``count`` roughly nearest ones there, (m * count,)."""
        products = self.product(tile, tile)
        products -= self._limits(self.left.offset[tile], self.right.offset[tile])[1]
        nearest = np.argpartition(products, -count, axis=1)[:, -count:].astype(np.int32).ravel()
        points = np.arange(tile.start, tile.stop, dtype=np.int32)
        return Pairs(points.repeat(count), nearest + np.int32(tile.start), np.full(len(nearest), np.nan, np.float32))

    def least(self, pairs: Pairs) -> Double:
        """The smallest that the exact distances of pairs with rough distances may be, (p,)."""
        found: Double = pairs.squared - self.left.error[pairs.left] - self.right.error[pairs.right]
        return found

    def _limits(self, rows: Double, columns: Double) -> tuple[Single, Single]:
        """Limits of distances, which add up, in units of products."""
        return (rows / self.weight).astype(np.float32), (columns / self.weight).astype(np.float32)


def rough_distances(left: Points, right: Points) -> Rough:
    """Rough distances in the fastest way that there is here."""
    product = int8.product(left.single.shape[1])
    return by_float32(left, right) if product is None else by_bytes(left, right, product)


def by_float32(left: Points, right: Points) -> Rough:
    """Distances by products in float32: slower, and hardly wrong."""
    sides = [
        Side(points.single_norms.astype(np.float64), float32_error(points, points.single_norms))
        for points in (left, right)
    ]
    return Rough(sides[0], sides[1], 2, lambda rows, columns: left.single[rows] @ right.single[columns].T)


def by_bytes(left: Points, right: Points, product: Product) -> Rough:
    """Distances by products of bytes, of points that were moved to a grid about the sets' centre.

    A point has the whole numbers a along the axes of the grid, whose zero is z. Its bytes are a on the left and b - 128
    on the right, and (a - z)(b - z) is a (b - 128) + (128 - z) a - z (b - z), summed over the axes.
    """
    sets = (left,) if left is right else (left, right)
    centre = np.mean([points.single.mean(axis=0) for points in sets], axis=0, dtype=np.float32)
    grid = Grid.fit(sets, centre)
    moved = [Moved(points, centre, grid) for points in sets]
    rows, columns = moved[0].rows, moved[-1].columns()
    weight, width = 2 * grid.step**2, left.single.shape[1]
    # Products may be off by 2^-22 of their largest size, and float32 moves them and what is compared with them by as
    # much again; twice this is allowed for.
    inexact = 2 * int8.ERROR * weight * width * LEVELS * HALFWAY
    balance = _balance(moved)
    longest = max(float(np.sqrt(of.norms.max())) for of in moved)
    errors = [of.errors(balance, longest) + inexact for of in moved]
    return Rough(
        Side(moved[0].norms - weight * (HALFWAY - grid.zero) * (moved[0].sums + width * grid.zero), errors[0]),
        Side(moved[-1].norms + weight * grid.zero * moved[-1].sums, errors[-1]),
        weight,
        lambda part, other: product(rows[part], columns[other.start // neighbours.TILE]),
    )


@dataclass(frozen=True)
class Grid:
    """Points ``step * (number - zero)`` for whole numbers from 0 to 255 along every axis."""

    step: float
    zero: int

    @classmethod
    def fit(cls, sets: tuple[Points, ...], centre: Single) -> Grid:
        """Grid that ends where nearly all features about the centre do, which is one of its points."""
        some = np.concatenate([points.single[:: -(-points.count // SAMPLE)] - centre for points in sets])
        finest = FINEST * max(float(np.sqrt(points.single_norms.max())) for points in sets)
        return cls.between(float(np.quantile(some, BEYOND)), float(np.quantile(some, 1 - BEYOND)), finest)

    @classmethod
    def between(cls, low: float, high: float, finest: float) -> Grid:
        """Grid with two ends, or with ends farther out if its step would be smaller than ``finest``."""
        low, high = min(low, 0), max(high, 0)
        # In float32 it is the same, and multiples of it are rounded once.
        step = float(np.float32(max((high - low) / LEVELS, finest)))
        return cls(step, round(-low / step))

    def numbers(self, values: Single) -> Single:
        """Nearest whole numbers, less ``zero``."""
        numbers: Single = values * np.float32(1 / self.step)
        np.rint(numbers, out=numbers)
        return np.clip(numbers, -self.zero, LEVELS - self.zero, out=numbers)


class Moved:
    """Points about a centre, moved to a grid.

    Attributes:
        rows: their bytes, (n, d).
        norms: squared norms about the centre before they were moved, (n,).
        moves: squared distances that they were moved by, (n,).
        sums: sums of their whole numbers less the grid's zero, (n,).
    """

    def __init__(self, points: Points, centre: Single, grid: Grid) -> None:
        self.rows: Bytes = np.empty(points.single.shape, np.uint8)
        self.norms, self.moves, self.sums = np.empty((3, points.count))
        self._points = points

        def move(part: slice) -> None:
            centred = points.single[part] - centre
            numbers = grid.numbers(centred)
            self.norms[part] = np.einsum("ij,ij->i", centred, centred)
            self.sums[part] = numbers.sum(axis=1)  # of whole numbers below 2^24: exact
            centred -= np.float32(grid.step) * numbers
            self.moves[part] = np.einsum("ij,ij->i", centred, centred)
            numbers += grid.zero
            self.rows[part] = numbers

        run(move, slices(slice(0, points.count), STRIP))

    def columns(self) -> list[SignedBytes]:
        """Numbers less 128 of each tile, (d, c)."""
        # Inverting the first of eight bits subtracts 128 from a number that is then read as signed.
        tiles = slices(slice(0, len(self.rows)), neighbours.TILE)
        return list(spread(lambda tile: np.ascontiguousarray((self.rows[tile] ^ HALFWAY).view(np.int8).T), tiles))

    def errors(self, balance: float, longest: float) -> Double:
        """How far all this may move their squared distances, (n,).

        Moves m of x and m' of x' change 2 x.x' by at most 2 (|x||m'| + |m||x'| + |m||m'|). 2 |x||m'| is at most
        |x|^2 / c + c |m'|^2 for any c, the same for c = |x| / |m'|. No |x| exceeds ``longest``, L, so that beyond
        |m'| = L / c the tangent L (2 |m'| - L / c) is enough. All are known to within ``unit``, relatively.
        """
        lengths = np.sqrt(self.moves)
        tangent = np.minimum(balance * lengths, longest)
        moving = self.norms / balance + tangent * (2 * lengths - tangent / balance) + self.moves
        found: Double = (1 + 2 * unit(self._points)) * moving + float32_error(self._points, self.norms)
        return found


def _balance(sets: list[Moved]) -> float:
    """Typical length of a point in units of how far it was moved."""
    norms, moves = (np.median(np.concatenate([getattr(of, name) for of in sets])) for name in ("norms", "moves"))
    smallest = float(np.finfo(np.float32).tiny)
    return float(np.sqrt((norms + smallest) / (moves + smallest)))
