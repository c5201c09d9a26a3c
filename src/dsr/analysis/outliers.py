"""What an outlier token is, and what the token maps show: norms, first principal component, attention received.

NumPy only, so that figures are drawn without torch. Grids are (S, S) in row-major token order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def token_norms(tokens: Floats) -> npt.NDArray[np.float32]:
    """Return the L2 norm of every token: (..., N, D) -> (..., N) float32, summed in float64."""
    return np.asarray(np.sqrt(np.square(tokens, dtype=np.float64).sum(-1)), np.float32)


def relative_norms(norms: Floats) -> npt.NDArray[np.float64]:
    """Norms (..., S, S) as multiples of their own grid's median norm; 1 where both are zero."""
    values = norms.astype(np.float64)
    medians = np.broadcast_to(_medians(norms), values.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values == medians, 1.0, values / medians)


def outlier_mask(norms: Floats, multiple: float) -> npt.NDArray[np.bool_]:
    """Mark outlier tokens of norm grids (..., S, S): the project's only criterion.

    A token is an outlier when its norm exceeds ``multiple`` times the median token norm of the same image after the
    same block. The paper does not publish its criterion; a multiple of the median needs no threshold per model, layer
    or noise level, and the median does not move while fewer than half of the tokens are outliers. Registers are not
    image tokens and take no part.
    """
    return norms.astype(np.float64) > multiple * _medians(norms)


def outlier_ratio(norms: Floats, multiple: float) -> npt.NDArray[np.float64]:
    """Fraction of outlier tokens of every grid: (..., S, S) -> (...)."""
    return np.asarray(outlier_mask(norms, multiple).mean(axis=(-2, -1)))


def first_component(tokens: Floats) -> tuple[npt.NDArray[np.float32], float]:
    """Project the tokens of one image (N, D) on their first principal component.

    Returns the centred projection (N,), signed so that its largest absolute value is positive, and the share of the
    variance that it explains (0 when all tokens are equal). The (N, N) Gram matrix has the same leading component as
    the (D, D) covariance and is the smaller one here.
    """
    centred = tokens.astype(np.float64) - tokens.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    total, leading = values.clip(min=0.0).sum(), max(float(values[-1]), 0.0)
    projection = vectors[:, -1] * np.sqrt(leading)
    if projection[np.abs(projection).argmax()] < 0:
        projection = -projection
    return projection.astype(np.float32), float(leading / total) if total > 0 else 0.0


def attention_received(weights: Floats) -> npt.NDArray[np.float32]:
    """Attention that every key receives, averaged over heads and queries: (heads, T, T) -> (T,), summing to 1.

    The sequence includes registers, both as queries and as keys.
    """
    return np.asarray(weights.mean(axis=(0, 1), dtype=np.float64), np.float32)


def _medians(norms: Floats) -> npt.NDArray[np.float64]:
    return np.asarray(np.median(norms.astype(np.float64), axis=(-2, -1), keepdims=True))
