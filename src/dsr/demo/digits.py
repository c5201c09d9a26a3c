"""Handwritten digits in place of ImageNet: 1797 real 8 x 8 images that scikit-learn ships (UCI, CC BY 4.0)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from dsr.files import atomic
from dsr.randomness import permutation

VALIDATION_PER_CLASS = 36
"""360 of the 1797 images, the same number of each digit."""

_WHITE = 16
_SEED = 0

logger = logging.getLogger(__name__)


def write_digits(output: Path) -> None:
    """Write ImageFolders ``train`` (1437 images) and ``validation`` (360), classes 0 to 9, as grey 8 x 8 PNGs."""
    digits = load_digits()
    pixels = np.round(digits.images * (255 / _WHITE)).astype(np.uint8)
    for label in range(10):
        members = np.flatnonzero(digits.target == label)
        order = permutation(_SEED, "digits split", label, len(members))
        for place, index in enumerate(members[order]):
            split = "validation" if place < VALIDATION_PER_CLASS else "train"
            with atomic(output / split / str(label) / f"{index:04d}.png") as temporary:
                Image.fromarray(pixels[index]).save(temporary)
    logger.info("%s: %d images", output, len(pixels))
