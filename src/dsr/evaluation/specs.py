"""What determines the scores of given images."""

from __future__ import annotations

from dsr.config.base import Positive, Section


class EvaluateSpec(Section):
    """The free numbers of the protocol; the defaults are the official evaluator's."""

    neighbours: Positive = 3
    """k of Precision and Recall."""
    split: Positive = 5000
    """Images in a split of the Inception Score."""
    images: Positive | None = None
    """Refuse another number of samples; null takes any."""
