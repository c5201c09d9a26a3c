"""Frechet distance between Gaussians fitted to features: FID and sFID in the ADM protocol, with an exact trace term.

d = |m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1 S2)^(1/2). The official evaluator takes the matrix square root of the
non-symmetric product, which is noisy, fails or returns NaN where a covariance is singular. For any factors with
F^T F = S the last trace is the sum of the singular values of F1 F2^T, which needs no root and no inverse; where the
problem is well conditioned both agree to 1e-12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr.base.errors import UserError

Double = npt.NDArray[np.float64]
Real = npt.NDArray[np.floating[Any]]
Features = npt.NDArray[np.float32]

_ROWS = 8192  # features centred and multiplied at a time
_CONDITION = 1e-10  # ratio of smallest to largest variance below which rounding would be felt


@dataclass(frozen=True)
class Moments:
    """Stored mean (d,) and covariance (d, d) of any float dtype; ``source`` names them in errors."""

    mean: Real
    sigma: Real
    source: str


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,), float32 or as stored, and a factor F (m, d) of the covariance F^T F, float64."""

    mean: Real
    factor: Double

    @property
    def trace(self) -> float:
        """Trace of the covariance."""
        return float(np.sum(np.square(self.factor)))


def fit(features: Features) -> Gaussian:
    """Fit a Gaussian to features (n, d): mean in float32 as the protocol has it, covariance float64, divisor n - 1.

    Raises:
        UserError: if there are fewer than two rows, or a value is not finite.
    """
    count = len(features)
    if count < 2:
        raise UserError(f"{count} images are too few for a covariance: give at least 2")
    mean = features.mean(axis=0)
    if not np.isfinite(mean).all():
        raise UserError("the features contain NaN or infinite values: is the graph file intact?")
    factor = _well_conditioned_root(covariance(features)) if count > features.shape[1] else None
    return Gaussian(mean, _data_factor(features) if factor is None else factor)


def covariance(features: Features) -> Double:
    """Covariance (d, d) of features (n, d) in float64, divisor n - 1, without a float64 copy of all features."""
    centre = features.mean(axis=0, dtype=np.float64)
    total = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(features), _ROWS):
        centred = features[start : start + _ROWS] - centre
        total += centred.T @ centred
    return total / (len(features) - 1)


def from_moments(moments: Moments) -> Gaussian:
    """Use stored moments.

    Raises:
        UserError: if a value is not finite, or the covariance is not symmetric or not positive semidefinite.
    """
    mean, sigma = moments.mean, moments.sigma
    if not (np.isfinite(mean).all() and np.isfinite(sigma).all()):
        raise UserError(f"{moments.source}: NaN or infinite values; fetch the file again")
    if not np.allclose(sigma, sigma.T, rtol=1e-4, atol=1e-6 * float(np.abs(sigma).max())):
        raise UserError(f"{moments.source}: the covariance is not symmetric; fetch the file again")
    return Gaussian(mean, factorise(sigma.astype(np.float64), moments.source))


def factorise(sigma: Double, source: str = "covariance") -> Double:
    """Return F (d, d) with F^T F = ``sigma``; directions below its numerical rank are rounding noise and left out.

    Raises:
        UserError: if ``sigma`` has an eigenvalue that is further below 0 than rounding to float32 takes one.
    """
    root = _well_conditioned_root(sigma)
    if root is not None:
        return root
    values, vectors = np.linalg.eigh(sigma)
    if values[0] < -len(sigma) * np.finfo(np.float32).eps * max(values[-1], 0):
        raise UserError(
            f"{source}: the covariance has the eigenvalue {values[0]:.3g}, expected none below 0; fetch the file again"
        )
    noise = len(sigma) * np.finfo(np.float64).eps * max(values[-1], 0)
    factor: Double = np.sqrt(np.where(values > noise, values, 0))[:, None] * vectors.T
    return factor


def _well_conditioned_root(sigma: Double) -> Double | None:
    """Transposed Cholesky factor, the fastest one; None where ``sigma`` is singular or nearly so."""
    try:
        root = np.linalg.cholesky(sigma).T
    except np.linalg.LinAlgError:
        return None
    diagonal = np.square(np.diagonal(root))
    return root if diagonal.min() > _CONDITION * diagonal.max() else None


def _data_factor(features: Features) -> Double:
    """Factor of the covariance straight from the data, by QR: rounding enters the roots, not the variances."""
    centre = features.mean(axis=0, dtype=np.float64)
    factor: Double = np.empty((0, features.shape[1]))
    for start in range(0, len(features), _ROWS):
        factor = np.concatenate([factor, features[start : start + _ROWS] - centre])
        if len(factor) > factor.shape[1]:
            factor = np.asarray(np.linalg.qr(factor, mode="r"))
    factor /= np.sqrt(len(features) - 1)
    return factor


def trace_of_root(first: Double, second: Double) -> float:
    """Tr (S1 S2)^(1/2) for covariances given by their factors: the nuclear norm of F1 F2^T."""
    product = first @ second.T if len(first) <= len(second) else second @ first.T
    # Squaring is three times faster, and loses nothing unless the singular values span five orders of magnitude.
    squares = np.linalg.eigvalsh(product @ product.T)
    if squares[0] > _CONDITION * squares[-1]:
        return float(np.sqrt(squares).sum())
    return float(np.linalg.svd(product, compute_uv=False).sum())


def distance(first: Gaussian, second: Gaussian) -> float:
    """Frechet distance; >= 0 up to rounding."""
    difference = first.mean - second.mean
    return float(difference @ difference) + first.trace + second.trace - 2 * trace_of_root(first.factor, second.factor)
