"""Precision and Recall in the float16 protocol and in float32 at once, for the price of one float32 product.

Nearly all pairs are too far apart to matter in either precision. Every pair is computed in float32; a bound on what the
protocol's rounding can add or take away says which pairs could matter in float16, and those alone are computed again,
in the protocol's arithmetic. The results are those of :mod:`dsr.evaluation.neighbours`, which computes every pair in
every precision and takes over where this way does not pay: where the protocol does not keep all blocks in float16, and
where points are so close together that the bound excludes too few pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr.evaluation import neighbours
from dsr.evaluation.half import Single, to_half_in_range
from dsr.evaluation.neighbours import Flags, Points, PrecisionRecall, insert

Indices = npt.NDArray[np.intp]

CROWDED = 100
"""Pairs per point that may have to be kept at a time."""
CHUNK = 500
"""Pairs whose features are gathered at a time."""
DENSE = 50
"""How many pairs of a rectangle cost as much as one pair by itself."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Radii:
    """Squared distance of each point to its k-th nearest neighbour, (n,), in both precisions."""

    half: Single
    single: Single


@dataclass(frozen=True)
class Scores:
    """Precision and Recall in both precisions."""

    half: PrecisionRecall
    single: PrecisionRecall


class _CrowdedError(Exception):
    """Too many pairs are close together."""


class _Set:
    """Points, and how far float16 may move their distances."""

    def __init__(self, points: Points, *, signed: bool) -> None:
        self.points = points
        self.features = points.single
        self.norms = points.single_norms
        self.slack = slack(points, signed=signed)


@dataclass(frozen=True)
class _Pairs:
    """Some pairs of a left and a right point, and their products u.v, all (p,)."""

    left: Indices
    right: Indices
    products: Single

    def __getitem__(self, chosen: Flags) -> _Pairs:
        return _Pairs(self.left[chosen], self.right[chosen], self.products[chosen])

    def __len__(self) -> int:
        return len(self.products)

    def squared(self, left: _Set, right: _Set) -> Single:
        """Squared distances in float32."""
        found: Single = left.norms[self.left] - 2 * self.products + right.norms[self.right]
        return np.maximum(found, 0, out=found)

    def halves(self, left: _Set, right: _Set) -> Single:
        """Squared distances in the arithmetic of the protocol."""
        if not len(self):
            return self.products
        rows, columns = (slice(int(of.min()), int(of.max()) + 1) for of in (self.left, self.right))
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        if area <= min(DENSE * len(self), neighbours.TILE**2):
            whole = neighbours.distances(left.points, right.points, rows, columns, half=True)
            found: Single = whole[self.left - rows.start, self.right - columns.start]
            return found
        return self._each_half(left, right)

    def _each_half(self, left: _Set, right: _Set) -> Single:
        found = np.empty(len(self), np.float32)
        # Into the same memory each time: fresh pages cost more than the arithmetic.
        rows, others = np.empty((2, min(CHUNK, len(self)), left.features.shape[1]), np.float32)
        for start in range(0, len(self), CHUNK):
            chunk = slice(start, start + CHUNK)
            count = len(found[chunk])
            left.points.rounded.take(self.left[chunk], axis=0, out=rows[:count], mode="clip")
            right.points.rounded.take(self.right[chunk], axis=0, out=others[:count], mode="clip")
            np.einsum("ij,ij->i", rows[:count], others[:count], out=found[chunk])
        to_half_in_range(found)
        found = left.points.rounded_norms[self.left] - 2 * found
        to_half_in_range(found)
        found += right.points.rounded_norms[self.right]
        to_half_in_range(found)
        return np.maximum(found, 0, out=found)


class _Tile:
    """Products u.v of some left and some right points, at one place after the other."""

    def __init__(self, left: _Set, right: _Set) -> None:
        self._left, self._right = left, right
        self._places = list(neighbours.tiles(slice(0, left.points.count), slice(0, right.points.count)))
        self._part, self._other = self._places[0]
        self._products = np.empty((0, 0), np.float32)
        # The same memory at all places: fresh pages cost as much as the arithmetic.
        size = (self._part.stop - self._part.start) * (self._other.stop - self._other.start)
        self._memory, self._scratch = np.empty((2, size), np.float32)
        self._chosen = np.empty(size, np.bool_)

    def places(self, *, upper: bool = False) -> Iterator[tuple[slice, slice]]:
        """Move from tile to tile; ``upper`` leaves out the half that symmetry makes superfluous."""
        for part, other in self._places:
            if not (upper and part.start > other.start):
                features, others = self._left.features[part], self._right.features[other]
                shape = (len(features), len(others))
                self._part, self._other = part, other
                self._products = np.matmul(features, others.T, out=self._shaped(self._memory, shape))
                yield part, other

    def find(self, rows: Single, columns: Single) -> _Pairs:
        """Pairs whose product is at least the sum of the row's and the column's number."""
        shape = self._products.shape
        rest = np.subtract(self._products, columns, out=self._shaped(self._scratch, shape))
        np.greater_equal(rest, rows[:, None], out=self._shaped(self._chosen, shape))
        found = np.flatnonzero(self._chosen[: self._products.size])
        left, right = np.divmod(found, shape[1])
        return _Pairs(self._part.start + left, self._other.start + right, self._memory[found])

    @staticmethod
    def _shaped(memory: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
        return memory[: shape[0] * shape[1]].reshape(shape)


def radii(points: Points, k: int) -> Radii:
    """Squared distances to the k-th nearest neighbour within the set, as :func:`neighbours.radii` finds them.

    Raises:
        UserError: if there are not more points than neighbours.
    """
    if points.count > k and _in_range(points, points):
        try:
            return _radii(_Set(points, signed=is_signed(points)), k)
        except _CrowdedError:
            _log.info("many points are close together: all distances are computed in both precisions")
    return Radii(neighbours.radii(points, k), neighbours.radii(_in_single(points), k))


def _radii(points: _Set, k: int) -> Radii:
    count, norms = points.points.count, points.norms
    single = np.full((count, k + 1), np.inf, np.float32)
    bounds, first = single.copy(), _first_bounds(points, k)
    kept: list[_Pairs] = []

    def limits(part: slice | Indices) -> Single:
        """Pairs that count, in either precision, have a squared distance of at most this and the other's slack."""
        found: Single = np.minimum(first[part], bounds[part, k]) + 2 * points.slack[part]
        return found

    def close(pairs: _Pairs) -> _Pairs:
        return pairs[pairs.squared(points, points) - points.slack[pairs.right] <= limits(pairs.left)]

    def add(part: slice, pairs: _Pairs) -> None:
        squared, rows = pairs.squared(points, points), pairs.left - part.start
        single[part] = insert(single[part], rows, squared)
        bounds[part] = insert(bounds[part], rows, squared + points.slack[pairs.right])
        kept.append(pairs)

    tile = _Tile(points, points)
    for part, other in tile.places(upper=True):
        nearest = [(norms[of] - points.slack[of]) / 2 for of in (part, other)]
        add(part, tile.find((norms[part] - limits(part)) / 2, nearest[1]))
        if part != other:
            found = tile.find(nearest[0], (norms[other] - limits(other)) / 2)
            add(other, _Pairs(found.right, found.left, found.products))
        if sum(map(len, kept)) > CROWDED * count:
            kept = [close(_joined(kept))]
            if len(kept[0]) > CROWDED * count / 2:
                raise _CrowdedError
    pairs = close(_joined(kept))
    half = insert(np.full((count, k + 1), np.inf, np.float32), pairs.left, pairs.halves(points, points))
    return Radii(half[:, k], single[:, k])


def is_signed(points: Points) -> bool:
    """Whether some feature is negative; those of Inception are not."""
    return bool(points.single.min() < 0)


def slack(points: Points, *, signed: bool) -> Single:
    """How far float16 may move a squared distance, (n,): between u and v by at most ``slack(u) + slack(v)``.

    With unit roundoff h of float16 and |u||v| <= (|u|^2 + |v|^2) / 2, in parts of |u|^2 + |v|^2: rounding u and v moves
    2 u.v by 2 h, rounding 2 u.v adds h; the two sums that follow are at most 1 each where no feature is negative, so
    that no distance is more than |u|^2 + |v|^2, and at most 2 each where some are (``signed``). Added to that are the
    errors of the norms as the protocol has them, four float32 sums of d terms, and 5 % for products of errors.
    """
    sums = 2 if signed else 1
    half, single = 2.0**-11 + 2.0**-18, (points.single.shape[1] + 8) * 2.0**-24
    relative = 1.05 * ((3 + 2 * sums) * half + 4 * single)
    found: Single = np.abs(points.rounded_norms - points.single_norms) + np.float32(relative) * points.single_norms
    return found


def _first_bounds(points: _Set, k: int) -> Single:
    """Bounds of the radii in both precisions from a few points each, (n,), less the point's own slack."""
    found = np.full(points.points.count, np.inf, np.float32)
    for part, other in neighbours.tiles(*[slice(0, points.points.count)] * 2):
        if part == other and part.stop - part.start > k:
            products = points.features[part] @ points.features[part].T
            squared = points.norms[part, None] - 2 * products + points.norms[part]
            found[part] = np.partition(squared + points.slack[part], k, axis=1)[:, k]
    return found


def precision_recall(reference: Points, samples: Points, reference_radii: Radii, sample_radii: Radii) -> Scores:
    """Test which points lie in the other set's balls, as :func:`neighbours.precision_recall` does."""
    if not _in_range(reference, samples):
        return Scores(
            neighbours.precision_recall(reference, samples, reference_radii.half, sample_radii.half),
            neighbours.precision_recall(
                _in_single(reference), _in_single(samples), reference_radii.single, sample_radii.single
            ),
        )
    signed = is_signed(reference) or is_signed(samples)
    left, right = _Set(reference, signed=signed), _Set(samples, signed=signed)
    inside_samples, inside_references = _Inside(samples.count), _Inside(reference.count)
    tile = _Tile(left, right)
    for part, other in tile.places():
        limits = np.maximum(reference_radii.single, reference_radii.half + left.slack)[part]
        pairs = tile.find((left.norms[part] - limits) / 2, (right.norms - right.slack)[other] / 2)
        inside_samples.add(left, right, pairs, pairs.right, reference_radii, pairs.left)
        limits = np.maximum(sample_radii.single, sample_radii.half + right.slack)[other]
        pairs = tile.find((left.norms - left.slack)[part] / 2, (right.norms[other] - limits) / 2)
        inside_references.add(left, right, pairs, pairs.left, sample_radii, pairs.right)
    kept_half = np.ones((len(reference.blocks), len(samples.blocks)), np.bool_)
    return Scores(
        _shares(inside_samples.half, inside_references.half, kept_half),
        _shares(inside_samples.single, inside_references.single, ~kept_half),
    )


class _Inside:
    """Which points of a set were found in some ball of the other set, (n,), in both precisions."""

    def __init__(self, count: int) -> None:
        self.half, self.single = np.zeros(count, np.bool_), np.zeros(count, np.bool_)

    def add(self, left: _Set, right: _Set, pairs: _Pairs, points: Indices, radii: Radii, centres: Indices) -> None:
        """Test pairs of ``points`` of this set and ``centres`` of balls of the other."""
        squared, slacks = pairs.squared(left, right), left.slack[pairs.left] + right.slack[pairs.right]
        self.single[points[squared <= radii.single[centres]]] = True
        self.half[points[squared + slacks <= radii.half[centres]]] = True
        doubtful = (squared - slacks <= radii.half[centres]) & ~self.half[points]
        found = pairs[doubtful].halves(left, right) <= radii.half[centres[doubtful]]
        self.half[points[doubtful][found]] = True


def _shares(inside_samples: Flags, inside_references: Flags, half_blocks: Flags) -> PrecisionRecall:
    precision, recall = float(inside_samples.mean()), float(inside_references.mean())
    return PrecisionRecall(precision, recall, inside_samples, inside_references, half_blocks)


def _joined(parts: list[_Pairs]) -> _Pairs:
    return _Pairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("left", "right", "products")))


def _in_range(left: Points, right: Points) -> bool:
    """Whether the protocol keeps every block in float16, and none of it is subnormal."""
    return left.rounding(right, slice(None), slice(None), half=True) == "half in range"


def _in_single(points: Points) -> Points:
    return Points(points.single, half=False)
