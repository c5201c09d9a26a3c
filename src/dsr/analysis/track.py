"""Whether a measured FID is what the paper's experiment gives: a band around what is published, and a word.

The band allows for reading a chart, and twice the standard deviation of a difference between two runs with other
training and sampling seeds. Their deviations are those of a study at an FID near 35, taken in proportion to FID:
nobody published any near 5.
"""

import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dsr.config.base import Section

T = TypeVar("T", float, npt.NDArray[np.float64])

READING = 0.05
"""Uncertainty of FIDs that were read off the paper's chart."""
SEEDS = math.hypot(0.438, 0.137) / 35
"""Standard deviation of FID over training and sampling seeds, as a share of it."""


def half_width(fid: T) -> T:
    """How far from a published FID another run may be."""
    return READING + 2 * math.sqrt(2) * SEEDS * fid


class Expected(Section):
    """What is published of a row at an epoch, in tables and charts, which need not agree."""

    published: tuple[float, ...] = ()
    incomparable: str = ""
    """Why nothing that is published can be compared with the row."""

    @property
    def band(self) -> tuple[float, float]:
        """The lowest and the highest FID that is on track."""
        low, high = min(self.published), max(self.published)
        return low - half_width(low), high + half_width(high)

    def verdict(self, fid: float) -> str:
        """One of 'on track', 'below' (better), 'above' (worse), and 'not comparable' with the reason."""
        if self.incomparable:
            return f"not comparable ({self.incomparable})"
        low, high = self.band
        return "below (better)" if fid < low else "above (worse)" if fid > high else "on track"
