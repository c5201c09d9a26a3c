"""Frechet distance between Gaussians fitted to features: FID and sFID in the ADM protocol, with an exact trace term.

d = |m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1 S2)^(1/2). The official evaluator takes the matrix square root of the
non-symmetric product, which is noisy, fails or returns NaN where a covariance is singular. For any factors with
F^T F = S the last trace is the sum of the singular values of F1 F2^T, which needs no root and no inverse; where the
problem is well conditioned both agree to 1e-12.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr.base.errors import UserError

Double = npt.NDArray[np.float64]
Real = npt.NDArray[np.floating[Any]]
Features = npt.NDArray[np.float32]

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
    """Fit a Gaussian to features (n, d): mean in float32 as the protocol has it, covariance float64, divisor n - 1."""
    count, width = features.shape
    mean = features.mean(axis=0)
    if not np.isfinite(mean).all():
        raise UserError("the features contain NaN or infinite values: is the graph file intact?")
    centred = features - features.mean(axis=0, dtype=np.float64)
    root = _well_conditioned_root(centred.T @ centred / (count - 1)) if count > width else None
    # Straight from the data, rounding enters the roots, not the variances.
    return Gaussian(mean, np.linalg.qr(centred, mode="r") / np.sqrt(count - 1) if root is None else root)


def from_moments(moments: Moments) -> Gaussian:
    """Use stored moments; directions below the covariance's numerical rank are rounding noise and left out.

    Raises:
        UserError: if a value is not finite, or the covariance is not symmetric, or has an eigenvalue that is further
            below 0 than rounding to float32 takes one.
    """
    mean, stored = moments.mean, moments.sigma
    if not (np.isfinite(mean).all() and np.isfinite(stored).all()):
        raise UserError(f"{moments.source}: NaN or infinite values; fetch the file again")
    if not np.allclose(stored, stored.T, rtol=1e-4, atol=1e-6 * float(np.abs(stored).max())):
        raise UserError(f"{moments.source}: the covariance is not symmetric; fetch the file again")
    sigma = stored.astype(np.float64)
    root = _well_conditioned_root(sigma)
    if root is not None:
        return Gaussian(mean, root)
    values, vectors = np.linalg.eigh(sigma)
    scale = len(sigma) * max(values[-1], 0)
    if values[0] < -scale * np.finfo(np.float32).eps:
        raise UserError(
            f"{moments.source}: the covariance has the eigenvalue {values[0]:.3g}, expected none below 0; fetch the"
            " file again"
        )
    kept = np.where(values > scale * np.finfo(np.float64).eps, values, 0)
    return Gaussian(mean, np.sqrt(kept)[:, None] * vectors.T)


def _well_conditioned_root(sigma: Double) -> Double | None:
    """Transposed Cholesky factor, the fastest one; None where ``sigma`` is singular or nearly so."""
    try:
        root = np.linalg.cholesky(sigma).T
    except np.linalg.LinAlgError:
        return None
    diagonal = np.square(np.diagonal(root))
    return root if diagonal.min() > _CONDITION * diagonal.max() else None


def distance(first: Gaussian, second: Gaussian) -> float:
    """Frechet distance; >= 0 up to rounding."""
    difference = first.mean - second.mean
    # Tr (S1 S2)^(1/2) is the nuclear norm of F1 F2^T.
    one, other = sorted((first.factor, second.factor), key=len)
    product = one @ other.T
    # Squaring is three times faster, and loses nothing unless the singular values span five orders of magnitude.
    squares = np.linalg.eigvalsh(product @ product.T)
    accurate = squares[0] > _CONDITION * squares[-1]
    root = np.sqrt(squares).sum() if accurate else np.linalg.svd(product, compute_uv=False).sum()
    return float(difference @ difference) + first.trace + second.trace - 2 * float(root)
