"""Precision and Recall in the float16 protocol and in float32 at once, from the few pairs that matter.

Nearly all pairs are too far apart to matter in either precision. Rough distances of all pairs, with bounds of their
errors and of what rounding in the protocol adds or takes away, say which pairs could matter. Distances of those in
float32, with narrower bounds, leave a tenth of them, and these alone are computed in the arithmetic of
:mod:`dsr.evaluation.neighbours`, which has every pair. That module itself takes over where this way does not pay: where
the protocol does not keep all blocks in float16, and where too many points are close together.

Threads read bounds and flags that others change meanwhile. Bounds only fall and flags are only raised, so that what is
read too early lets pairs through that would not have been needed, and changes no result.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from dsr.evaluation import neighbours
from dsr.evaluation.half import Single
from dsr.evaluation.neighbours import Flags, Points, PrecisionRecall, insert
from dsr.evaluation.pairs import Balls, Bounded, Double, Indices, Pairs, error_of, in_float32, products, reaches
from dsr.evaluation.parallel import run, slices, spread
from dsr.evaluation.rough import rough_distances

CROWDED = 500
"""Pairs per point that may be kept, or computed one by one."""
CHUNK = 10_000
"""Pairs that one thread computes at a time."""

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


def radii(points: Points, k: int) -> Radii:
    """Squared distances to the k-th nearest neighbour within the set, as :func:`neighbours.radii` defines them.

    Raises:
        UserError: if there are not more points than neighbours.
    """
    if points.count > k and _in_range(points, points):
        try:
            return _Nearest(points, k).radii()
        except _CrowdedError:
            _log.info("many points are close together: all their distances are computed in both precisions")
    return Radii(neighbours.radii(points, k), neighbours.radii(_in_single(points), k))


def precision_recall(reference: Points, samples: Points, reference_radii: Radii, sample_radii: Radii) -> Scores:
    """Test which points lie in the other set's balls, as :func:`neighbours.precision_recall` does."""
    if _in_range(reference, samples):
        try:
            return _Memberships(reference, samples, reference_radii, sample_radii).scores()
        except _CrowdedError:
            _log.info("many points of both sets are close together: all distances are computed in both precisions")
    return Scores(
        neighbours.precision_recall(reference, samples, reference_radii.half, sample_radii.half),
        neighbours.precision_recall(
            _in_single(reference), _in_single(samples), reference_radii.single, sample_radii.single
        ),
    )


class _CrowdedError(Exception):
    """So many points are close together that it is faster to compute all pairs."""


@dataclass(frozen=True)
class _Found:
    """Pairs that may be neighbours: some with distances in float32, of so many computed, and others with rough ones."""

    computed: int
    near: Pairs
    others: Pairs


class _Nearest:
    """Radii of the points of a set.

    A pair may matter as long as its distance does not exceed what bounds the radius of one of its points. The first
    bounds are from some neighbours; every distance that becomes known lowers them.
    """

    def __init__(self, points: Points, k: int) -> None:
        self._points, self._k = points, k
        self._set = Bounded(points, signed=_is_signed(points))
        self._rough = rough_distances(points, points)
        self._bounds = np.full((points.count, k + 1), np.inf)  # of the smallest distances in both precisions, sorted
        self._balls = Balls.around(self._set, self._bounds[:, k])

    def radii(self) -> Radii:
        """Find all neighbours.

        Raises:
            _CrowdedError: if it would take longer than to compute all pairs.
        """
        run(self._bound, slices(slice(0, self._points.count), neighbours.TILE))
        near, others, computed, most = [], [], 0, CROWDED * self._points.count
        for found in spread(self._search, self._rough.places(of_one_set=True)):
            self._lower(found.near)
            near.append(found.near)
            others.append(found.others)
            if sum(map(len, others)) > most:
                others = [self._still_near(pairs) for pairs in others]
                if sum(map(len, others)) > most / 2:
                    raise _CrowdedError
            computed += found.computed
            if computed > most:
                raise _CrowdedError
        for pairs in spread(self._closer, others):
            self._lower(pairs)
            near.append(pairs)
        return self._exact(Pairs.joined([self._closest(pairs) for pairs in near]))

    def _bound(self, tile: slice) -> None:
        """Bound radii by those within a tile."""
        total = self._k + 1
        if tile.stop - tile.start >= total:
            pairs = in_float32(self._points, self._points, self._rough.nearest(tile, total))
            radii = self._upper(pairs).reshape(-1, total).max(axis=1)
            self._balls.reach[tile] = radii + self._set.below[tile]

    def _search(self, place: tuple[slice, slice]) -> _Found:
        pairs = self._rough.near(*place, self._balls, self._balls)
        pairs = pairs[pairs.left <= pairs.right]
        # Computed at once are those that would lower a bound if their distances were right.
        bounds = self._balls.reach - self._set.below - 2 * self._set.above
        likely = pairs.squared <= np.maximum(bounds[pairs.left], bounds[pairs.right])
        return _Found(int(likely.sum()), self._closer(pairs[likely]), pairs[~likely])

    def _still_near(self, pairs: Pairs) -> Pairs:
        return pairs[self._rough.least(pairs) <= self._farthest(pairs)]

    def _closer(self, pairs: Pairs) -> Pairs:
        """Pairs that are still near, with their distances in float32."""
        return self._closest(in_float32(self._points, self._points, self._still_near(pairs)))

    def _closest(self, pairs: Pairs) -> Pairs:
        return pairs[pairs.squared - error_of(self._set, self._set, pairs) <= self._farthest(pairs)]

    def _farthest(self, pairs: Pairs) -> Double:
        """Exact distances beyond which pairs do not matter to either of their points, (p,)."""
        return np.maximum(*reaches(pairs, self._balls, self._balls))

    def _upper(self, pairs: Pairs) -> Double:
        """Bounds of distances in both precisions, from those in float32, (p,)."""
        above = self._set.error + self._set.above
        found: Double = pairs.squared + above[pairs.left] + above[pairs.right]
        return found

    def _lower(self, found: Pairs) -> None:
        for pairs in (found, found.swapped()):
            upper = self._upper(pairs)
            small = upper < self._bounds[pairs.left, -1]
            points, at = np.unique(pairs.left[small], return_inverse=True)
            self._bounds[points] = insert(self._bounds[points], at, upper[small])
            reach = self._bounds[points, -1] + self._set.below[points]
            self._balls.reach[points] = np.minimum(self._balls.reach[points], reach)

    def _exact(self, pairs: Pairs) -> Radii:
        chunks = [pairs[chunk] for chunk in slices(slice(0, len(pairs)), CHUNK)]
        found = list(spread(lambda chunk: products(self._points, self._points, chunk), chunks))
        found += [each.swapped() for each in found]
        points = np.concatenate([each.pairs.left for each in found])
        distances = [each.distances(self._points, self._points) for each in found]
        empty = np.full((self._points.count, self._k + 1), np.inf, np.float32)
        half, single = (insert(empty, points, np.concatenate(values)) for values in zip(*distances, strict=True))
        return Radii(half[:, self._k], single[:, self._k])


class _Inside:
    """Which points of a set, (n,), were found in balls with some radii around points of the other set."""

    def __init__(self, count: int, radii: Radii) -> None:
        self._radii = radii
        self.half, self.single = np.zeros((2, count), np.bool_)

    def enter(self, points: Indices, centres: Indices, half: Single | Double, single: Single | Double) -> None:
        """Test pairs of a point and a centre, given their distances in both precisions, or bounds of them, (p,)."""
        self.half[points[half <= self._radii.half[centres]]] = True
        self.single[points[single <= self._radii.single[centres]]] = True

    def unsettled(self, points: Indices) -> Flags:
        """Which of some points have not been found in both precisions, (p,)."""
        settled: Flags = self.half[points] & self.single[points]
        return ~settled


class _Memberships:
    """Which points of two sets lie in balls around points of the other one."""

    def __init__(self, reference: Points, samples: Points, reference_radii: Radii, sample_radii: Radii) -> None:
        signed = _is_signed(reference) or _is_signed(samples)
        self._left, self._right = (Bounded(points, signed=signed) for points in (reference, samples))
        self._rough = rough_distances(reference, samples)
        self._left_balls, self._right_balls = (
            Balls.around(points, np.maximum(radii.half, radii.single))
            for points, radii in ((self._left, reference_radii), (self._right, sample_radii))
        )
        self._left_inside = _Inside(reference.count, sample_radii)
        self._right_inside = _Inside(samples.count, reference_radii)

    def scores(self) -> Scores:
        """Test all points.

        Raises:
            _CrowdedError: if it would take longer than to compute all pairs.
        """
        reference, samples = self._left.points, self._right.points
        computed = 0
        for some in spread(self._search, self._rough.places(of_one_set=False)):
            computed += some
            if computed > CROWDED * (reference.count + samples.count):
                raise _CrowdedError
        kept_half = np.ones((len(reference.blocks), len(samples.blocks)), np.bool_)
        return Scores(
            _shares(self._right_inside.half, self._left_inside.half, kept_half),
            _shares(self._right_inside.single, self._left_inside.single, ~kept_half),
        )

    def _search(self, place: tuple[slice, slice]) -> int:
        """Test the points of a rectangle; returns how many pairs had to be computed."""
        left, right = self._left, self._right
        pairs = self._rough.near(*place, self._left_balls, self._right_balls)
        pairs = self._undecided(pairs, self._rough.least(pairs))
        computed = len(pairs)
        pairs = in_float32(left.points, right.points, pairs)
        error = error_of(left, right, pairs)
        most = pairs.squared + error + left.above[pairs.left] + right.above[pairs.right]
        self._enter(pairs, most, most)
        pairs = self._undecided(pairs, pairs.squared - error)
        self._enter(pairs, *products(left.points, right.points, pairs).distances(left.points, right.points))
        return computed

    def _undecided(self, pairs: Pairs, least: Double) -> Pairs:
        """Pairs whose exact distances, at least ``least``, may be so small that they show a point to be in a ball."""
        of_left, of_right = reaches(pairs, self._left_balls, self._right_balls)
        wanted = (least <= of_left) & self._right_inside.unsettled(pairs.right)
        wanted |= (least <= of_right) & self._left_inside.unsettled(pairs.left)
        return pairs[wanted]

    def _enter(self, pairs: Pairs, half: Single | Double, single: Single | Double) -> None:
        self._right_inside.enter(pairs.right, pairs.left, half, single)
        self._left_inside.enter(pairs.left, pairs.right, half, single)


def _shares(inside_samples: Flags, inside_references: Flags, half_blocks: Flags) -> PrecisionRecall:
    precision, recall = float(inside_samples.mean()), float(inside_references.mean())
    return PrecisionRecall(precision, recall, inside_samples, inside_references, half_blocks)


def _in_range(left: Points, right: Points) -> bool:
    """Whether the protocol keeps every block in float16, and every norm is so large that rounding is relative to it."""
    return left.rounding(right, slice(None), slice(None), half=True) == "half in range"


def _is_signed(points: Points) -> bool:
    """Whether some feature is negative; those of Inception are not."""
    return bool(points.single.min() < 0)


def _in_single(points: Points) -> Points:
    return Points(points.single, half=False)
