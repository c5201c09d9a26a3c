"""Precision and Recall in the float16 protocol and in float32 at once, from the few pairs that matter.

Nearly all pairs are too far apart to matter in either precision. Rough distances of all pairs, with bounds of their
errors and of what rounding in the protocol adds or takes away, say which pairs could matter; those alone are computed
in the arithmetic of :mod:`dsr.evaluation.neighbours`, but with products that are rounded once, so that they do not
depend on how a library adds up. :mod:`dsr.evaluation.neighbours` itself, which computes every pair, takes over where
this way does not pay: where the protocol does not keep all blocks in float16, and where too many points are close
together.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from dsr.evaluation import neighbours
from dsr.evaluation.fine import Bounded, Budget, CrowdedError
from dsr.evaluation.inside import Memberships
from dsr.evaluation.nearest import Nearest, Radii
from dsr.evaluation.neighbours import Flags, Points, PrecisionRecall
from dsr.evaluation.whole import rough_distances

CROWDED = 250
"""Pairs per point that may be computed one by one."""

_log = logging.getLogger(__name__)


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
        bounded = Bounded(points, signed=_is_signed(points))
        try:
            return Nearest(bounded, rough_distances(points, points), k, Budget(CROWDED * points.count)).radii()
        except CrowdedError:
            _log.info("many points are close together: all their distances are computed in both precisions")
    return Radii(neighbours.radii(points, k), neighbours.radii(_in_single(points), k))


def precision_recall(reference: Points, samples: Points, reference_radii: Radii, sample_radii: Radii) -> Scores:
    """Test which points lie in the other set's balls, as :func:`neighbours.precision_recall` does."""
    if _in_range(reference, samples):
        signed = _is_signed(reference) or _is_signed(samples)
        found = Memberships(
            Bounded(reference, signed=signed),
            Bounded(samples, signed=signed),
            rough_distances(reference, samples),
            (reference_radii, sample_radii),
            Budget(CROWDED * (reference.count + samples.count)),
        )
        try:
            found.find()
            kept_half = np.ones((len(reference.blocks), len(samples.blocks)), np.bool_)
            inside, others = found.inside_right, found.inside_left
            return Scores(
                _shares(inside.half, others.half, kept_half), _shares(inside.single, others.single, ~kept_half)
            )
        except CrowdedError:
            _log.info("many points of both sets are close together: all distances are computed in both precisions")
    return Scores(
        neighbours.precision_recall(reference, samples, reference_radii.half, sample_radii.half),
        neighbours.precision_recall(
            _in_single(reference), _in_single(samples), reference_radii.single, sample_radii.single
        ),
    )


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
