"""Which points lie in another set's balls in both precisions, from the few pairs that may decide it."""

from __future__ import annotations

import numpy as np

from dsr.evaluation import fine
from dsr.evaluation.coarse import Balls, Coarse, Double, Indices, Pairs, farthest
from dsr.evaluation.fine import Bounded, Budget
from dsr.evaluation.half import Single
from dsr.evaluation.nearest import Radii
from dsr.evaluation.neighbours import Flags
from dsr.evaluation.parallel import spread


class Inside:
    """Which points of a set were found in some ball of another set, (n,), in both precisions."""

    def __init__(self, count: int) -> None:
        self.half, self.single = np.zeros((2, count), np.bool_)

    def add(self, points: Indices, half: Flags, single: Flags) -> None:
        """Enter tests of some points (p,)."""
        self.half[points[half]] = True
        self.single[points[single]] = True

    def unsettled(self, points: Indices) -> Flags:
        """Which of some points have not been found in both precisions, (p,)."""
        settled: Flags = self.half[points] & self.single[points]
        return ~settled


class Memberships:
    """Search for the points of two sets that lie in each other's balls.

    Args:
        left: a set.
        right: the other set.
        coarse: rough distances between them.
        radii: squared radii of the balls around the points of both.
        budget: pairs that may be computed one by one.
    """

    def __init__(
        self, left: Bounded, right: Bounded, coarse: Coarse, radii: tuple[Radii, Radii], budget: Budget
    ) -> None:
        self._left, self._right, self._coarse, self._budget = left, right, coarse, budget
        self._radii, self._other_radii = radii
        self._balls, self._other_balls = (
            Balls(of.reach(slice(None), radius.half, radius.single), of.below)
            for of, radius in zip((left, right), radii, strict=True)
        )
        self.inside_left, self.inside_right = Inside(left.points.count), Inside(right.points.count)

    def find(self) -> None:
        """Test all points.

        Raises:
            CrowdedError: if it would take longer than to compute all pairs.
        """
        for _ in spread(self._search, self._coarse.places()):
            pass

    def _search(self, place: tuple[slice, slice]) -> None:
        left, right = self._left, self._right
        pairs = self._coarse.rectangle(*place).within(self._balls, self._other_balls)
        pairs = self._undecided(pairs, self._coarse.least(pairs))
        self._budget.spend(len(pairs))
        pairs = fine.closer(left, right, pairs, farthest(pairs, self._balls, self._other_balls))
        error = fine.error_of(left, right, pairs)
        most = pairs.squared + error + left.above[pairs.left] + right.above[pairs.right]
        self._enter(pairs.left, pairs.right, most, most)
        pairs = self._undecided(pairs, pairs.squared - error)
        self._enter(pairs.left, pairs.right, *fine.products(left, right, pairs).distances(left, right))

    def _undecided(self, pairs: Pairs, least: Double) -> Pairs:
        """Pairs whose distances, of which the smallest possible are given, may show that a point is in a ball."""
        wanted = self.inside_right.unsettled(pairs.right)
        wanted &= least <= self._balls.reach[pairs.left] + self._other_balls.slack[pairs.right]
        also = self.inside_left.unsettled(pairs.left)
        also &= least <= self._other_balls.reach[pairs.right] + self._balls.slack[pairs.left]
        return pairs[wanted | also]

    def _enter(self, left: Indices, right: Indices, half: Double | Single, single: Double | Single) -> None:
        """Test some pairs, given their distances in both precisions, or bounds of them."""
        self.inside_right.add(right, half <= self._radii.half[left], single <= self._radii.single[left])
        self.inside_left.add(left, half <= self._other_radii.half[right], single <= self._other_radii.single[right])
