"""Improved Precision and Recall on k-nearest-neighbour balls (Kynkaanniemi et al. 2019), as the ADM evaluator does it.

Distances are squared, D(u, v) = max(|u|^2 - 2 u.v + |v|^2, 0), in blocks of 10,000 x 10,000. The official protocol
rounds every step to float16, but for u.v, which it sums in float32 and rounds once; a block of which some entry is not
finite is repeated in float32. This lifts both numbers by some thousandths, so published values can only be compared
with the float16 protocol. Both numbers are computed in float32 beside it.

TensorFlow takes one tile of pairs after the other, on a GPU if it has one. The tiles of one set with itself above the
diagonal serve for those below it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr.base.errors import UserError
from dsr.evaluation.inception import device, tensorflow

Single = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Tensor = Any
"""One of TensorFlow's, which has no types."""

BLOCK = 10_000
"""Rows and columns of a block that share one precision."""
TILE = 2_000
"""Rows and columns computed at a time, so that memory stays flat."""
IN_RANGE = 60_000
"""Bound of distances that float16 holds whatever is rounded on the way; its largest number is 65504."""


@dataclass(frozen=True)
class Radii:
    """Squared distance of each point to its k-th nearest neighbour, (n,), in the float16 protocol and in float32."""

    half: Single
    single: Single


@dataclass(frozen=True)
class Members:
    """Which points lie in balls around points of the other set, in one precision."""

    samples: Flags
    """(samples,): inside some reference's ball; their share is the precision."""
    references: Flags
    """(references,): inside some sample's ball; their share is the recall."""


class Points:
    """Features (n, d), float32, of a set of images, with their squared norms (n,) in both precisions.

    The features lie on the device that computes; rows and columns of distances come in ``blocks``.

    Raises:
        UserError: if a feature is not finite.
    """

    def __init__(self, features: Single, block: int = BLOCK) -> None:
        tf = tensorflow()
        self.count = len(features)
        self.blocks = _parts(slice(0, len(features)), block)
        self.norms = np.empty(len(features), np.float32)
        for part in _parts(slice(0, len(features)), TILE):
            self.norms[part] = np.square(features[part], dtype=np.float64).sum(axis=1)
        if not np.isfinite(self.norms).all():
            first = int(np.argmin(np.isfinite(self.norms)))
            raise UserError(f"the features of image {first} are NaN, infinite or huge: is the graph file intact?")
        self.half_norms = np.empty(len(features), np.float16)
        # The order in which a CPU adds the float16 numbers of a block is the protocol; a GPU has another one.
        with tf.device("/CPU:0"):
            for rows in self.blocks:
                self.half_norms[rows] = tf.reduce_sum(tf.square(tf.cast(features[rows], tf.float16)), 1)
        with tf.device(device()):
            self.features = tf.constant(features)


class _Tile:
    """Distances between some points of two sets, in one precision and, from the same matmul, in both orders."""

    def __init__(self, left: Points, right: Points, rows: slice, columns: slice, *, half: bool) -> None:
        tf = tensorflow()
        u, v = left.features[rows], right.features[columns]
        norms, others = (left.half_norms, right.half_norms) if half else (left.norms, right.norms)
        self._norms, self._others = tf.constant(norms[rows]), tf.constant(others[columns])
        if half:
            u, v = (tf.cast(tf.cast(points, tf.float16), tf.float32) for points in (u, v))
        self._dots = tf.cast(tf.matmul(u, v, transpose_b=True), self._norms.dtype)

    def distances(self) -> Tensor:
        """D(left, right), float32 (m, c)."""
        return _distances(self._norms, self._dots, self._others)

    def reverse(self) -> Tensor:
        """D(right, left), float32 (c, m): what is rounded differs from D(left, right)."""
        return _distances(self._others, tensorflow().transpose(self._dots), self._norms)


def _distances(norms: Tensor, dots: Tensor, others: Tensor) -> Tensor:
    tf = tensorflow()
    return tf.cast(tf.maximum(norms[:, None] - 2 * dots + others, 0), tf.float32)


def half_blocks(left: Points, right: Points) -> Flags:
    """Which blocks of D(left, right) the protocol keeps in float16, (left blocks, right blocks): the finite ones."""
    tf = tensorflow()

    def is_finite(rows: slice, columns: slice) -> bool:
        largest, other = (float(norms.max()) for norms in (left.half_norms[rows], right.half_norms[columns]))
        if np.isinf(largest + other) or (np.sqrt(largest) + np.sqrt(other)) ** 2 < IN_RANGE:
            return bool(np.isfinite(largest + other))
        tiles = (_Tile(left, right, *tile, half=True).distances() for tile in _tiles(rows, columns))
        return all(bool(tf.reduce_all(tf.math.is_finite(distances))) for distances in tiles)

    with tf.device(device()):
        return np.array([[is_finite(rows, columns) for columns in right.blocks] for rows in left.blocks])


def radii(points: Points, k: int) -> Radii:
    """Squared distance of each point to its k-th nearest neighbour within the set.

    The row of distances contains the point itself, so the k-th neighbour is entry k of the sorted row.
    """
    tf = tensorflow()
    half, single = (np.full((points.count, k + 1), np.inf, np.float32) for _ in range(2))

    def merge(smallest: Single, distances: Tensor) -> None:
        """Keep the smallest, sorted, of those so far, (m, k + 1), and of some more, (m, c)."""
        found, _ = tf.math.top_k(-distances, min(k + 1, distances.shape[1]))
        smallest[:] = np.sort(np.concatenate([smallest, -found.numpy()], axis=1), axis=1)[:, : k + 1]

    is_half = half_blocks(points, points)
    with tf.device(device()):
        for i, j in zip(*np.triu_indices(len(points.blocks)), strict=True):
            for rows, columns in _tiles(points.blocks[i], points.blocks[j]):
                if rows.start > columns.start:
                    continue
                tile = _Tile(points, points, rows, columns, half=False)
                rounded = _Tile(points, points, rows, columns, half=True) if is_half[i, j] or is_half[j, i] else tile
                merge(single[rows], tile.distances())
                merge(half[rows], (rounded if is_half[i, j] else tile).distances())
                if rows != columns:
                    merge(single[columns], tile.reverse())
                    merge(half[columns], (rounded if is_half[j, i] else tile).reverse())
    return Radii(half[:, k], single[:, k])


def members(
    reference: Points, samples: Points, reference_radii: Radii, sample_radii: Radii
) -> tuple[Members, Members, Flags]:
    """Test every sample against the references' balls and every reference against the samples' balls.

    Returns the members in the float16 protocol, those in float32, and which blocks the protocol kept in float16.
    """
    tf = tensorflow()
    half, single = (Members(*(np.zeros(of.count, np.bool_) for of in (samples, reference))) for _ in range(2))
    is_half = half_blocks(reference, samples)
    with tf.device(device()):
        for i, j in np.ndindex(is_half.shape):
            for rows, columns in _tiles(reference.blocks[i], samples.blocks[j]):
                distances = rounded = _Tile(reference, samples, rows, columns, half=False).distances()
                if is_half[i, j]:
                    rounded = _Tile(reference, samples, rows, columns, half=True).distances()
                for found, squared, own, other in (
                    (half, rounded, reference_radii.half, sample_radii.half),
                    (single, distances, reference_radii.single, sample_radii.single),
                ):
                    found.samples[columns] |= tf.reduce_any(squared <= own[rows, None], 0)
                    found.references[rows] |= tf.reduce_any(squared <= other[columns], 1)
    return half, single, is_half


def _parts(whole: slice, size: int) -> list[slice]:
    return [slice(start, min(start + size, whole.stop)) for start in range(whole.start, whole.stop, size)]


def _tiles(rows: slice, columns: slice) -> Iterator[tuple[slice, slice]]:
    return ((part, other) for part in _parts(rows, TILE) for other in _parts(columns, TILE))
