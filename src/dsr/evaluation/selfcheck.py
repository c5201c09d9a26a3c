"""A known case before every evaluation: the linear algebra of this machine must give the exact Frechet distance."""

from __future__ import annotations

import numpy as np

from dsr.evaluation.frechet import Gaussian, distance, factorise

WIDTH = 256
TOLERANCE = 1e-10


class SelfCheckError(RuntimeError):
    """The installed linear algebra gives wrong results."""


def check_frechet() -> float:
    """Return the relative error of a distance between two covariances, one of them singular, with a known answer.

    Both are diagonal in the same orthonormal basis, so the trace of the root of their product is the sum of the
    roots of the products of their eigenvalues.

    Raises:
        SelfCheckError: if the error is above 1e-10.
    """
    first, second = np.linspace(0.01, 4, WIDTH), np.linspace(3, 0, WIDTH)
    second[WIDTH // 2 :] = 0
    positions = np.arange(1, WIDTH + 1)
    basis = np.sqrt(2 / (WIDTH + 1)) * np.sin(np.pi * np.outer(positions, positions) / (WIDTH + 1))  # sine transform
    fitted = [Gaussian(np.full(WIDTH, mean), factorise(basis * values @ basis.T)) for mean, values in
              ((0.5, first), (0.25, second))]  # fmt: skip
    expected = WIDTH * 0.25**2 + first.sum() + second.sum() - 2 * np.sqrt(first * second).sum()
    error = abs(distance(*fitted) - expected) / expected
    if not error < TOLERANCE:
        raise SelfCheckError(
            f"a Frechet distance of {expected:.12g} came out {error:.1e} off (relative): NumPy's linear algebra is "
            "broken on this machine; reinstall the environment"
        )
    return float(error)
