"""Rough distances by products of whole numbers of 8 bits, which processors multiply several times as fast as float32.

Points are moved to the nearest point of a grid. By how much is known for each point, and bounds what that does to its
distances; products of the grid's whole numbers are next to exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr.evaluation import int8, neighbours
from dsr.evaluation.coarse import (
    TALL,
    Coarse,
    Double,
    Indices,
    InSingle,
    Rectangle,
    Side,
    float32_error,
    unit,
)
from dsr.evaluation.half import Single
from dsr.evaluation.int8 import HALFWAY, LEVELS, Bytes, Product, SignedBytes
from dsr.evaluation.neighbours import Points
from dsr.evaluation.parallel import slices, spread

SAMPLE = 200
"""Points that a grid is fitted to."""
BINS = 1000
"""Ends that are tried for a grid."""
FINEST = 2.0**-20
"""Smallest step of a grid in units of the longest feature vector."""
STRIP = 100
"""Points that are moved at a time: few enough for a core's cache."""
ALIGNMENT = 64
"""Bytes; TensorFlow copies arrays that start elsewhere."""


def rough_distances(left: Points, right: Points) -> Coarse:
    """Rough distances in the fastest way that there is here."""
    product = int8.product(left.single.shape[1])
    return InSingle(left, right) if product is None else InWhole(left, right, product)


@dataclass(frozen=True)
class Grid:
    """Points ``step * (number - zero)`` for whole numbers from 0 to 255 along every axis."""

    step: float
    zero: int

    @classmethod
    def fit(cls, values: Single, finest: float) -> Grid:
        """Grid that moves ``values`` least in the mean square.

        Those between its ends are taken to move by up to half a step, evenly; those beyond move to the end. The centre
        is one of its points, and its step is at least ``finest``.
        """
        counts, edges = np.histogram(values, BINS)
        ends = (edges[1:] + edges[:-1]).astype(np.float64) / 2
        within = values.size / 12 * np.square((ends - ends[:, None]) / LEVELS)
        moved = within + _beyond(counts, ends)[:, None] + _beyond(counts[::-1], ends[::-1])[::-1]
        first, last = np.unravel_index(np.argmin(moved), moved.shape)
        low, high = min(float(ends[first]), 0), max(float(ends[last]), 0)
        # In float32 it is the same, and multiples of it are rounded once.
        step = float(np.float32(max((high - low) / LEVELS, finest)))
        return cls(step, round(-low / step))

    def numbers(self, values: Single) -> Single:
        """Nearest whole numbers, less ``zero``."""
        numbers: Single = values * np.float32(1 / self.step)
        np.rint(numbers, out=numbers)
        return np.clip(numbers, -self.zero, LEVELS - self.zero, out=numbers)


def _beyond(counts: npt.NDArray[np.intp], ends: Double) -> Double:
    """Sum of the squared distances from each end to what comes before it."""
    count, total, squares = (np.cumsum(counts * ends**power) for power in range(3))
    found: Double = count * ends**2 - 2 * total * ends + squares
    return found


class OnGrids:
    """Points about a centre, in the order of their widest coordinate, and each part of them moved to a grid of its own.

    Points of one part have much the same extent, so that the grid's ends suit all of them.
    """

    def __init__(self, points: Points, centre: Single) -> None:
        count, width = points.single.shape
        self._features, self._centre = points.single, centre
        self._finest = FINEST * float(np.sqrt(points.single_norms.max()))
        tiles = slices(slice(0, count), neighbours.TILE)
        self.order: Indices = np.argsort(np.concatenate(list(spread(self._widest, tiles)))).astype(np.int32)
        parts = slices(slice(0, count), TALL * neighbours.TILE)
        self.grids = list(spread(self._fit, parts))
        self.rows: Bytes = _aligned((count, width), np.uint8)
        self.sums, self.norms, self.moves = np.empty((3, count))
        self.columns: list[SignedBytes] = list(spread(self._convert, tiles))

    def grid(self, part: slice) -> Grid:
        """Grid of a part, or of a tile of one."""
        found: Grid = self.grids[part.start // (TALL * neighbours.TILE)]
        return found

    def _widest(self, tile: slice) -> Single:
        widest: Single = (self._features[tile] - self._centre).max(axis=1)
        return widest

    def _fit(self, part: slice) -> Grid:
        some = self.order[part][:: -(-(part.stop - part.start) // SAMPLE)]
        return Grid.fit(self._features[some] - self._centre, self._finest)

    def _convert(self, tile: slice) -> SignedBytes:
        """Move the points of a tile to their grid; returns their numbers less 128, (d, c)."""
        grid = self.grid(tile)
        for part in slices(tile, STRIP):
            points = self.order[part]
            centred = self._features[points] - self._centre
            numbers = grid.numbers(centred)
            self.norms[points] = np.einsum("ij,ij->i", centred, centred)
            self.sums[points] = numbers.sum(axis=1)  # of whole numbers below 2^24: exact
            centred -= np.float32(grid.step) * numbers
            self.moves[points] = np.einsum("ij,ij->i", centred, centred)
            numbers += grid.zero
            self.rows[part] = numbers
        columns: SignedBytes = _aligned((self.rows.shape[1], tile.stop - tile.start), np.int8)
        # Inverting the first of eight bits subtracts 128 from a number that is then read as signed.
        columns[:] = (self.rows[tile] ^ HALFWAY).view(np.int8).T
        return columns


def _aligned(shape: tuple[int, int], kind: type[np.generic]) -> npt.NDArray[Any]:
    """New array of bytes that starts at a multiple of `ALIGNMENT`."""
    memory = np.empty(shape[0] * shape[1] + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + shape[0] * shape[1]].reshape(shape).view(kind)


class InWhole(Coarse):
    """Products of whole numbers."""

    def __init__(self, left: Points, right: Points, product: Product) -> None:
        sets = (left,) if left is right else (left, right)
        centre = np.mean([points.single.mean(axis=0) for points in sets], axis=0, dtype=np.float32)
        on_grids = [OnGrids(points, centre) for points in sets]
        self._left, self._right, self._product = on_grids[0], on_grids[-1], product
        balance = _balance(on_grids)
        # Products may be inexact. Twice as much as that is allowed for, half of it at each point.
        weight = 2 * max(grid.step for points in on_grids for grid in points.grids) ** 2
        inexact = int8.ERROR * weight * left.single.shape[1] * LEVELS * HALFWAY
        errors = [
            _moving(moved, balance, unit(points)) + float32_error(points, moved.norms) + inexact
            for points, moved in zip(sets, on_grids, strict=True)
        ]
        super().__init__((self._left.order, self._right.order), (errors[0], errors[-1]))

    def rectangle(self, part: slice, other: slice) -> Rectangle:
        """Of products of whole numbers a and b.

        The right ones are b - 128. With the zeros z and y of both grids (a - z)(b - y) is
        a (b - 128) + (128 - y)(a - z) - z (b - 128), summed over the coordinates.
        """
        left, right, width = self._left, self._right, self._left.rows.shape[1]
        rows, columns, grid, other_grid = left.order[part], right.order[other], left.grid(part), right.grid(other)
        weight, above = 2 * grid.step * other_grid.step, HALFWAY - other_grid.zero
        numbers = self._product(left.rows[part], right.columns[other.start // neighbours.TILE])
        left_offset = left.norms[rows] - weight * above * left.sums[rows]
        right_offset = right.norms[columns] + weight * grid.zero * (right.sums[columns] - above * width)
        return Rectangle(
            Side(rows, left_offset, self.left_errors[rows]),
            Side(columns, right_offset, self.right_errors[columns]),
            numbers,
            weight,
        )


def _balance(sets: list[OnGrids]) -> float:
    """Typical length of a point in units of how far it was moved."""
    smallest = float(np.finfo(np.float32).tiny)
    norms = sum(float(points.norms.sum()) for points in sets) + smallest
    return float(np.sqrt(norms / (sum(float(points.moves.sum()) for points in sets) + smallest)))


def _moving(points: OnGrids, balance: float, error: float) -> Double:
    """Bound of what moving points does to their squared distances, (n,).

    Moves m of x and m' of x' change 2 x.x' by at most 2 (|x||m'| + |m||x'| + |m||m'|), and 2 |x||m'| is at most
    |x|^2 / c + c |m'|^2 for any c, the same for c = |x| / |m'|. All are known to within ``error``, relatively.
    """
    moving: Double = points.norms / balance + (balance + 1) * points.moves
    return (1 + 2 * error) * moving
