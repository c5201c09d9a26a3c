"""Inception Score (Salimans et al. 2016) in the ADM protocol: consecutive splits in file order, no bias, no shuffle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dsr.evaluation.parallel import slices, spread

SPLIT = 5_000
"""Images of a split; the last, shorter one counts like the others."""
ROWS = 100
"""Images at a time: few enough for a core's cache."""


def inception_score(features: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], split: int = SPLIT) -> float:
    """Mean over splits of exp(mean KL(p(class | image) || p(class))).

    ``features`` (n, d) are pooled features, ``weights`` (d, classes) the softmax layer's; logits are float32 as in
    the protocol. Probabilities stay logarithms in float64, so that a class of probability 0 contributes 0, where the
    official float32 formula gives NaN.
    """

    def score(part: slice) -> float:
        return _score_of_split(features[part] @ weights)

    return float(np.mean(list(spread(score, slices(slice(0, len(features)), split)))))


def _score_of_split(logits: npt.NDArray[np.float32]) -> float:
    """exp(mean of sum p log p, less sum m log m), where m is the mean of p."""
    total, marginal = 0.0, np.zeros(logits.shape[1])
    for rows in slices(slice(0, len(logits)), ROWS):
        shifted = logits[rows].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        odds = np.exp(shifted)
        sums = odds.sum(axis=1)
        total += float(np.sum(np.einsum("ij,ij->i", odds, shifted) / sums - np.log(sums)))
        marginal += (1 / sums) @ odds
    marginal /= len(logits)
    present = marginal[marginal > 0]
    return float(np.exp(total / len(logits) - present @ np.log(present)))
