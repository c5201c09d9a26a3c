"""Radii of the points of a set in both precisions, from the few pairs that may be neighbours.

A pair may be one as long as its distance does not exceed what bounds the radius of one of its points. The first bounds
are from likely neighbours; every distance that becomes known lowers them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np

from dsr.evaluation import fine, neighbours
from dsr.evaluation.coarse import LOW, Balls, Coarse, Double, Indices, Pairs, Rectangle, farthest
from dsr.evaluation.fine import Bounded, Budget, CrowdedError, Products
from dsr.evaluation.half import Single
from dsr.evaluation.neighbours import Flags, insert
from dsr.evaluation.parallel import slices, spread

KEPT = 100
"""Pairs per point that are kept before those are dropped that have turned out to be too far apart."""
CHUNK = 10_000
"""Pairs that are computed at a time."""


@dataclass(frozen=True)
class Radii:
    """Squared distance of each point to its k-th nearest neighbour, (n,), in both precisions."""

    half: Single
    single: Single


class Nearest:
    """What is known of the nearest neighbours of each point within its set, the point itself among them.

    Args:
        points: the set.
        coarse: rough distances of all its pairs.
        k: neighbours, not counting the point itself.
        budget: pairs that may be computed one by one.
    """

    def __init__(self, points: Bounded, coarse: Coarse, k: int, budget: Budget) -> None:
        self._set, self._coarse, self._budget = points, coarse, budget
        count = points.points.count
        # Bounds of their distances in both precisions, less what the point adds to them; then the distances.
        self._bounds, self._half, self._single = (_Smallest(count, k + 1) for _ in range(3))
        self._balls = Balls(np.full(count, np.inf), points.below)

    def radii(self) -> Radii:
        """Find the neighbours of all points.

        Raises:
            CrowdedError: if it would take longer than to compute all pairs.
        """
        near, rough = self._search()
        nearest = self._are_nearest(near)
        self._settle(near[nearest])  # which bounds the others
        self._settle(near[~nearest])
        self._settle(Pairs.joined(list(spread(self._closer, rough))))
        return Radii(self._half.largest, self._single.largest)

    def _search(self) -> tuple[Pairs, list[Pairs]]:
        """Pairs that may be neighbours: likely ones with their distances in float32, and others with rough ones."""
        near: list[Pairs] = []
        rough: list[Pairs] = []
        most = KEPT * self._set.points.count
        for found, others in chain(
            spread(self._search_part, self._coarse.parts(LOW)),
            spread(self._search_place, self._coarse.places_above_diagonal()),
        ):
            self._enter_bounds(found)
            near.append(found)
            rough.append(others)
            if sum(map(len, rough)) > most:
                rough = [self._still_near(pairs) for pairs in rough]
                kept = sum(map(len, rough))
                if kept > self._budget.left:
                    raise CrowdedError
                most = max(most, 2 * kept)
        return Pairs.joined(near), rough

    def _search_part(self, part: slice) -> tuple[Pairs, Pairs]:
        """Search within a part, whose radii have no bound yet."""
        rectangles = [self._coarse.rectangle(part, other) for other in slices(part, neighbours.TILE)]
        self._bound(self._coarse.left_order[part], rectangles)
        pairs = Pairs.joined([rectangle.within(self._balls, self._balls) for rectangle in rectangles])
        return self._likely_and_others(pairs[pairs.left <= pairs.right])

    def _search_place(self, place: tuple[slice, slice]) -> tuple[Pairs, Pairs]:
        return self._likely_and_others(self._coarse.rectangle(*place).within(self._balls, self._balls))

    def _bound(self, points: Indices, rectangles: list[Rectangle]) -> None:
        """Bound the radii of points by those of their likely neighbours among all columns."""
        total = self._bounds.total
        nearness, others = (np.hstack(of) for of in zip(*(each.nearest(total) for each in rectangles), strict=True))
        if others.shape[1] < total:
            return
        others = np.take_along_axis(others, np.argsort(nearness, axis=1)[:, -total:], axis=1)
        pairs = Pairs(np.repeat(points, total), others.ravel(), np.empty(others.size, np.float32))
        pairs = fine.closer(self._set, self._set, pairs, np.full(len(pairs), np.inf))
        self._lower(points, self._upper(pairs).reshape(others.shape).max(axis=1) + self._margin(points))

    def _likely_and_others(self, pairs: Pairs) -> tuple[Pairs, Pairs]:
        likely = self._are_nearest(pairs)
        return self._closer(pairs[likely]), pairs[~likely]

    def _enter_bounds(self, found: Pairs) -> None:
        for pairs in (found, found.swapped()[found.left != found.right]):
            points = self._bounds.enter(pairs.left, self._upper(pairs))
            self._lower(points, self._bounds.largest[points] + self._margin(points))

    def _settle(self, pairs: Pairs) -> None:
        """Enter the distances of pairs whose distances in float32 are known."""
        pairs = pairs[pairs.squared - fine.error_of(self._set, self._set, pairs) <= self._farthest(pairs)]
        pairs = pairs[np.argsort(pairs.left)]
        for found in spread(self._products, [pairs[chunk] for chunk in slices(slice(0, len(pairs)), CHUNK)]):
            for products in (found, found.swapped()[found.left != found.right]):
                half, single = products.distances(self._set, self._set)
                points = np.union1d(self._half.enter(products.left, half), self._single.enter(products.left, single))
                self._lower(points, self._set.reach(points, self._half.largest[points], self._single.largest[points]))

    def _still_near(self, pairs: Pairs) -> Pairs:
        return pairs[self._coarse.least(pairs) <= self._farthest(pairs)]

    def _closer(self, pairs: Pairs) -> Pairs:
        pairs = self._still_near(pairs)
        self._budget.spend(len(pairs))
        return fine.closer(self._set, self._set, pairs, self._farthest(pairs))

    def _products(self, pairs: Pairs) -> Products:
        return fine.products(self._set, self._set, pairs)

    def _farthest(self, pairs: Pairs) -> Double:
        return farthest(pairs, self._balls, self._balls)

    def _are_nearest(self, pairs: Pairs) -> Flags:
        """Which pairs may be nearer to a point than what bounds its radius, if their distances are right."""
        bounds = self._balls.reach - self._margin(slice(None)) - self._set.above.min()
        nearest: Flags = pairs.squared <= np.maximum(bounds[pairs.left], bounds[pairs.right])
        return nearest

    def _upper(self, pairs: Pairs) -> Single:
        """Bounds of distances in both precisions, less what the left points add to them, from those in float32."""
        bounds = pairs.squared + fine.error_of(self._set, self._set, pairs) + self._set.above[pairs.right]
        rounded: Single = bounds.astype(np.float32)
        return np.nextafter(rounded, np.float32(np.inf), out=rounded)

    def _margin(self, points: Indices | slice) -> Double:
        """From a bound of `_upper` to the reach of the left point's ball."""
        margin: Double = self._set.above[points] + self._set.below[points]
        return margin

    def _lower(self, points: Indices, reach: Double) -> None:
        self._balls.reach[points] = np.minimum(self._balls.reach[points], reach)


class _Smallest:
    """The smallest values found for each of some points."""

    def __init__(self, count: int, total: int) -> None:
        self.total = total
        self._values = np.full((count, total), np.inf, np.float32)

    @property
    def largest(self) -> Single:
        """The largest of them, (n,)."""
        return self._values[:, -1]

    def enter(self, points: Indices, values: Single) -> Indices:
        """Add values (p,) of points (p,); returns the points for which one was small enough, each once."""
        small = values < self.largest[points]
        changed: Indices
        changed, at = np.unique(points[small], return_inverse=True)
        self._values[changed] = insert(self._values[changed], at, values[small])
        return changed
