"""Inception Score (Salimans et al. 2016) in the ADM protocol: consecutive splits in file order, no bias, no shuffle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SPLIT = 5_000
"""Images of a split; the last, shorter one counts like the others."""


def inception_score(features: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], split: int = SPLIT) -> float:
    """Mean over splits of exp(mean KL(p(class | image) || p(class))).

    ``features`` (n, d) are pooled features, ``weights`` (d, classes) the softmax layer's; logits are float32 as in
    the protocol. Probabilities stay logarithms in float64, so that a class of probability 0 contributes 0, where the
    official float32 formula gives NaN.
    """
    starts = range(0, len(features), split)
    return float(np.mean([_score_of_split(features[start : start + split] @ weights) for start in starts]))


def _score_of_split(logits: npt.NDArray[np.float32]) -> float:
    """exp(mean of sum p log p, less sum m log m), where m is the mean of p."""
    log_p = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
    p = np.exp(log_p)
    sums = p.sum(axis=1, keepdims=True)
    p /= sums
    log_p -= np.log(sums)
    marginal = p.mean(axis=0)
    present = marginal[marginal > 0]
    return float(np.exp(np.einsum("ij,ij->", p, log_p) / len(logits) - present @ np.log(present)))
