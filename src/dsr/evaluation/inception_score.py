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
    scores = [_score_of_split(features[start : start + split] @ weights) for start in range(0, len(features), split)]
    return float(np.mean(scores))


def _score_of_split(logits: npt.NDArray[np.float32]) -> float:
    log_p = _log_softmax(logits.astype(np.float64))
    p = np.exp(log_p)
    log_marginal = np.log(p.mean(axis=0), out=np.zeros(p.shape[1]), where=p.any(axis=0))
    # log_marginal is 0 instead of -inf for classes that no image has: their p is 0, and 0 * finite is 0.
    return float(np.exp(np.sum(p * (log_p - log_marginal), axis=1).mean()))


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted: npt.NDArray[np.float64] = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
