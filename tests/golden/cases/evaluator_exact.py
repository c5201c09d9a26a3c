"""Metrics computed again by other routes than the project's, in extended precision where that is affordable.

The project takes Cholesky, eigen or QR factors in float64 and LAPACK's singular values; here factors come from a
Householder QR and singular values from one-sided Jacobi rotations, both in long double (64-bit mantissa on x86). Above
`EXTENDED` columns that would take hours; there it is LAPACK's column-pivoted QR and its other SVD driver.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

EXTENDED = 128
"""Widest matrix for long double."""
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
    difference = mean - other
    return float(
        difference @ difference  # in float32 where both means are, as the protocol has it
        + np.square(factor).sum()
        + np.square(other_factor).sum()
        - 2 * _nuclear_norm(factor, other_factor)
    )


def _factor(features: np.ndarray) -> np.ndarray:
    """F with F^T F the covariance of features (n, d)."""
    count, width = features.shape
    if min(count, width) <= EXTENDED:
        centred = features.astype(np.longdouble)
        centred = (centred - centred.mean(axis=0)) / np.sqrt(np.longdouble(count - 1))
        return _triangular(centred) if count > width else centred
    centred = features.astype(np.float64)
    centred = (centred - centred.mean(axis=0)) / np.sqrt(count - 1)
    triangle, order = scipy.linalg.qr(centred, mode="r", pivoting=True, overwrite_a=True)
    factor = np.empty_like(triangle[: min(count, width)])
    factor[:, order] = triangle[: min(count, width)]
    return factor


def _triangular(matrix: np.ndarray) -> np.ndarray:
    """R of a Householder QR, in the matrix's own precision."""
    matrix = matrix.copy()
    for column in range(matrix.shape[1]):
        reflector = matrix[column:, column].copy()
        norm = np.sqrt(reflector @ reflector)
        if norm == 0:
            continue
        reflector[0] += np.copysign(norm, reflector[0])
        reflector /= np.sqrt(reflector @ reflector)
        matrix[column:, column:] -= 2 * np.outer(reflector, reflector @ matrix[column:, column:])
    return np.triu(matrix[: matrix.shape[1]])


def _nuclear_norm(factor: np.ndarray, other: np.ndarray) -> np.longdouble:
    """Sum of the singular values of ``factor other^T``."""
    if min(len(factor), len(other)) > EXTENDED:
        product = factor.astype(np.float64) @ other.astype(np.float64).T
        return np.longdouble(scipy.linalg.svd(product, compute_uv=False, lapack_driver="gesvd").sum())
    product = factor.astype(np.longdouble) @ other.T.astype(np.longdouble)
    columns = np.ascontiguousarray(product if product.shape[0] < product.shape[1] else product.T)
    rotated = True
    while rotated:
        rotated = False
        for p in range(len(columns) - 1):
            for q in range(p + 1, len(columns)):
                rotated |= _rotate(columns, p, q)
    return np.sqrt(np.square(columns).sum(axis=1)).sum()


def _rotate(rows: np.ndarray, p: int, q: int) -> bool:
    """Make two rows orthogonal; False if they are already."""
    first, second = rows[p].copy(), rows[q].copy()
    alpha, beta, gamma = first @ first, second @ second, first @ second
    if gamma * gamma <= np.longdouble(1e-36) * alpha * beta:
        return False
    zeta = (beta - alpha) / (2 * gamma)
    tangent = (1 if zeta >= 0 else -1) / (abs(zeta) + np.sqrt(1 + zeta * zeta))
    cosine = 1 / np.sqrt(1 + tangent * tangent)
    rows[p] = cosine * (first - tangent * second)
    rows[q] = cosine * (second + tangent * first)
    return True
