"""Metrics computed again by other routes than the project's.

The project takes Cholesky, eigen or plain QR factors and LAPACK's usual singular values; here it is its column-pivoted
QR and its other SVD driver. On the recorded files extended precision (a Householder QR and one-sided Jacobi rotations
in long double) gives the same distances to 1e-14. The Inception Score is in long double.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

CONDITION = 1e-10
"""Eigenvalue ratio of a covariance below which the official matrix root is noisy."""


def is_well_conditioned(features: np.ndarray | None = None, *, sigma: np.ndarray | None = None) -> bool:
    """Whether a covariance, given by features (n, d) or directly, is far from singular."""
    if features is not None:
        if len(features) <= features.shape[1]:
            return False
        sigma = np.cov(features.astype(np.float64), rowvar=False)
    values = np.linalg.eigvalsh(sigma)
    return bool(values[0] > CONDITION * values[-1])


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance of features (n, d) and (m, d), exact but for the means: float32, as in the protocol."""
    return _assemble(x.mean(axis=0), y.mean(axis=0), _factor(x), _factor(y))


def distance_to_moments(x: np.ndarray, mean: np.ndarray, sigma: np.ndarray) -> float:
    """Frechet distance of features (n, d) and stored moments; directions below rounding are left out of the moments."""
    values, vectors = scipy.linalg.eigh(sigma.astype(np.float64), driver="ev")
    kept = values > len(sigma) * np.finfo(np.float64).eps * values[-1]
    return _assemble(x.mean(axis=0), mean, _factor(x), np.sqrt(values[kept])[:, None] * vectors.T[kept])


def inception_score(features: np.ndarray, weights: np.ndarray, split: int) -> float:
    """Inception Score from float32 logits, everything after them in long double."""
    scores = []
    for start in range(0, len(features), split):
        logits = (features[start : start + split] @ weights).astype(np.longdouble)
        log_sum = np.logaddexp.reduce(logits, axis=1)[:, None]
        p = np.exp(logits - log_sum)
        entropy = np.sum(np.where(p > 0, p * (logits - log_sum), 0), axis=1).mean()
        marginal = p.mean(axis=0)
        marginal = marginal[marginal > 0]
        scores.append(np.exp(entropy - np.sum(marginal * np.log(marginal))))
    return float(np.mean(scores))


def _assemble(mean: np.ndarray, other: np.ndarray, factor: np.ndarray, other_factor: np.ndarray) -> float:
    difference, product = mean - other, factor @ other_factor.T
    return float(
        difference @ difference  # in float32 where both means are, as the protocol has it
        + np.square(factor).sum()
        + np.square(other_factor).sum()
        - 2 * scipy.linalg.svd(product, compute_uv=False, lapack_driver="gesvd").sum()
    )


def _factor(features: np.ndarray) -> np.ndarray:
    """F with F^T F the covariance of features (n, d)."""
    centred = features - features.mean(axis=0, dtype=np.float64)
    triangle, order = scipy.linalg.qr(centred / np.sqrt(len(features) - 1), mode="r", pivoting=True)
    factor = np.empty_like(triangle[: min(features.shape)])
    factor[:, order] = triangle[: min(features.shape)]
    return factor
