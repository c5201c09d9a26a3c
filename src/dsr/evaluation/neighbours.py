"""Improved Precision and Recall on k-nearest-neighbour balls (Kynkaanniemi et al. 2019), as the ADM evaluator does it.

Distances are squared, D(u, v) = max(|u|^2 - 2 u.v + |v|^2, 0), in blocks of 10,000 x 10,000. The official protocol
computes each block in float16 and repeats a whole block in float32 where some entry is not finite; this lifts both
numbers by some thousandths, so published values can only be compared with the float16 protocol. `half=False` computes
everything in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from dsr.base.errors import UserError
from dsr.evaluation.half import ROWS, Single, squared_norms, to_half, to_half_in_range
from dsr.evaluation.parallel import run, slices

Flags = npt.NDArray[np.bool_]
Real = TypeVar("Real", npt.NDArray[np.float32], npt.NDArray[np.float64])
Rounding = Literal["single", "half", "half in range"]

BLOCK = 10_000
"""Rows and columns of a block that share one precision."""
TILE = 1_000
"""Rows and columns computed at a time; divides a block's work so that memory stays flat."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares of samples inside the reference manifold and of reference points inside the samples' manifold."""

    precision: float
    recall: float
    inside_sample: Flags
    """(samples,): inside some reference point's ball."""
    inside_reference: Flags
    """(references,): inside some sample's ball."""
    half_blocks: Flags
    """(reference blocks, sample blocks): computed in float16."""


class Points:
    """Features (n, d) prepared for distances in the float16 protocol (``half``) or in float32.

    Raises:
        UserError: if a feature is not finite.
    """

    def __init__(self, features: Single, *, half: bool, block: int = BLOCK) -> None:
        self.count = len(features)
        self.half = half
        self.single = np.ascontiguousarray(features, dtype=np.float32)
        self.single_norms: Single = np.einsum("ij,ij->i", self.single, self.single)
        if not np.isfinite(self.single_norms).all():
            first = int(np.argmin(np.isfinite(self.single_norms)))
            raise UserError(f"the features of image {first} are NaN, infinite or huge: is the graph file intact?")
        self.blocks = slices(slice(0, self.count), block)
        if half:
            self.rounded_norms, self.moves = self._round_in_parts()

    @cached_property
    def rounded(self) -> Single:
        """Features on the float16 grid, (n, d); as large again as the features, so only where all are needed."""
        rounded = np.empty_like(self.single)
        for part in slices(slice(0, self.count), ROWS):
            rounded[part] = to_half(self.single[part])
        return rounded

    def _round_in_parts(self) -> tuple[Single, Single]:
        """Squared norms as the protocol has them, and of what rounding adds to the features; both (n,)."""
        norms, moves = np.empty((2, self.count), np.float32)

        def round_part(part: slice) -> None:
            rounded = to_half(self.single[part])
            norms[part] = squared_norms(rounded)
            rounded -= self.single[part]
            moves[part] = np.einsum("ij,ij->i", rounded, rounded)

        run(round_part, [part for block in self.blocks for part in slices(block, ROWS)])
        return norms, moves

    def rows(self, part: slice, half: bool) -> tuple[Single, Single]:
        """Features (m, d) and squared norms (m,) of some rows, in one precision."""
        if half:
            return self.rounded[part], self.rounded_norms[part]
        return self.single[part], self.single_norms[part]

    def rounding(self, other: Points, mine: slice, theirs: slice, half: bool) -> Rounding:
        """Which rounding is right between some rows of two sets; the fast one needs normal numbers throughout."""
        if not half:
            return "single"
        norms, others = self.rounded_norms[mine], other.rounded_norms[theirs]
        farthest = (np.sqrt(norms.max()) + np.sqrt(others.max())) ** 2
        return "half in range" if farthest < 60_000 and min(norms.min(), others.min()) >= 1 else "half"


def half_blocks(left: Points, right: Points) -> Flags:
    """Which blocks of D(left, right) the protocol keeps in float16, (left blocks, right blocks)."""
    flags = np.zeros((len(left.blocks), len(right.blocks)), np.bool_)
    if left.half and right.half:
        for i, rows in enumerate(left.blocks):
            for j, columns in enumerate(right.blocks):
                flags[i, j] = _is_finite(left, right, rows, columns)
    return flags


def distances(
    left: Points, right: Points, part: slice, other: slice, *, half: bool, products: Single | None = None
) -> Single:
    """D(u, v) between some rows of ``left`` and of ``right``, (m, c); ``products`` are 2 u.v if known."""
    rounding = left.rounding(right, part, other, half)
    if products is None:
        products = _products(left, right, part, other, half)
    with np.errstate(invalid="ignore"):
        squared = _round(left.rows(part, half)[1][:, None] - products, rounding)
        squared += right.rows(other, half)[1][None, :]
        squared = _round(squared, rounding)
        return np.maximum(squared, 0, out=squared)


def radii(points: Points, neighbours: int) -> Single:
    """Squared distance of each point to its k-th nearest neighbour within its own set, (n,).

    The row of distances contains the point itself, so the k-th neighbour is entry k of the sorted row.

    Raises:
        UserError: if there are not more points than neighbours.
    """
    if points.count <= neighbours:
        raise UserError(f"{points.count} images are too few for {neighbours} nearest neighbours: give at least "
                        f"{neighbours + 1}")  # fmt: skip
    smallest = np.full((points.count, neighbours + 1), np.inf, np.float32)
    flags = half_blocks(points, points)
    for i, rows in enumerate(points.blocks):
        for j, columns in enumerate(points.blocks[i:], start=i):
            for part, other in tiles(rows, columns):
                if part.start <= other.start:
                    _update(points, smallest, part, other, (bool(flags[i, j]), bool(flags[j, i])))
    return smallest[:, neighbours]


def precision_recall(
    reference: Points, samples: Points, reference_radii: Single, sample_radii: Single
) -> PrecisionRecall:
    """Test every sample against the references' balls and every reference against the samples' balls."""
    inside_sample, inside_reference = np.zeros(samples.count, np.bool_), np.zeros(reference.count, np.bool_)
    flags = half_blocks(reference, samples)
    for i, rows in enumerate(reference.blocks):
        for j, columns in enumerate(samples.blocks):
            for part, other in tiles(rows, columns):
                squared = distances(reference, samples, part, other, half=bool(flags[i, j]))
                inside_sample[other] |= (squared <= reference_radii[part, None]).any(axis=0)
                inside_reference[part] |= (squared <= sample_radii[None, other]).any(axis=1)
    return PrecisionRecall(
        precision=float(inside_sample.mean()),
        recall=float(inside_reference.mean()),
        inside_sample=inside_sample,
        inside_reference=inside_reference,
        half_blocks=flags,
    )


def _update(points: Points, smallest: Single, part: slice, other: slice, half: tuple[bool, bool]) -> None:
    """Merge D(part, other) and, since one matrix product serves both, D(other, part) into the smallest distances."""
    forward, backward = half
    products = _products(points, points, part, other, forward)
    smallest[part] = _merge(smallest[part], distances(points, points, part, other, half=forward, products=products))
    if part != other:
        if backward != forward:
            products = _products(points, points, part, other, backward)
        squared = distances(points, points, other, part, half=backward, products=products.T)
        smallest[other] = _merge(smallest[other], squared)


def _merge(smallest: Single, distances: Single) -> Single:
    """Keep the smallest of the sorted (m, k) so far and of new distances (m, c); sorted (m, k)."""
    keep = smallest.shape[1]
    if np.isinf(smallest[:, -1]).any():
        both = np.concatenate([smallest, distances], axis=1)
        return np.sort(np.partition(both, keep - 1, axis=1)[:, :keep], axis=1)
    # After the first tiles hardly any entry is a candidate, so looking for candidates is cheaper than partitioning.
    rows, columns = np.nonzero(distances < smallest[:, -1:])
    return insert(smallest, rows, distances[rows, columns])


def insert(smallest: Real, rows: npt.NDArray[Any], values: Real) -> Real:
    """Merge some values (p,), each into one row, into the smallest so far, sorted (m, k)."""
    keep = smallest.shape[1]
    order = np.lexsort((values, rows))
    rows, values = rows[order], values[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    chosen = rank < keep
    new = np.full_like(smallest, np.inf)
    new[rows[chosen], rank[chosen]] = values[chosen]
    return np.sort(np.concatenate([smallest, new], axis=1), axis=1)[:, :keep]


def _products(left: Points, right: Points, part: slice, other: slice, half: bool) -> Single:
    """2 u.v for all pairs, (m, c), summed in float64 and then rounded: the order of the sums does not matter."""
    rounding = left.rounding(right, part, other, half)
    rows, columns = left.rows(part, half)[0].astype(np.float64), right.rows(other, half)[0].astype(np.float64)
    products = _round((rows @ columns.T).astype(np.float32), rounding)
    products *= 2
    return _round(products, rounding) if rounding == "half" else products  # doubling may overflow


def _round(values: Single, rounding: Rounding) -> Single:
    """Round to float16 if asked to; may work in place."""
    if rounding == "half":
        return to_half(values)
    if rounding == "half in range":
        to_half_in_range(values)
    return values


def _is_finite(left: Points, right: Points, rows: slice, columns: slice) -> bool:
    if not (np.isfinite(left.rounded_norms[rows]).all() and np.isfinite(right.rounded_norms[columns]).all()):
        return False
    if left.rounding(right, rows, columns, half=True) == "half in range":
        return True
    return all(bool(np.isfinite(distances(left, right, *tile, half=True)).all()) for tile in tiles(rows, columns))


def tiles(rows: slice, columns: slice) -> Iterator[tuple[slice, slice]]:
    """Tiles that make up a rectangle of pairs."""
    return ((part, other) for part in slices(rows, TILE) for other in slices(columns, TILE))
