"""Handwritten digits in place of ImageNet: 1797 real 8 x 8 images that scikit-learn ships (UCI, CC BY 4.0)."""

import logging
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from dsr.base.files import naming, write_json
from dsr.base.randomness import permutation

VALIDATION_PER_CLASS = 36
"""360 of the 1797 images, the same number of each digit."""

_WHITE = 16
_SEED = 0

logger = logging.getLogger(__name__)


def write_digits(output: Path) -> None:
    """Write ImageFolders ``train`` (1437 images) and ``validation`` (360), classes 0 to 9, as grey 8 x 8 PNGs.

    ``train.json`` and ``validation.json`` are written last and say how many images and classes there are.
    """
    digits = load_digits()
    pixels = np.round(digits.images * (255 / _WHITE)).astype(np.uint8)
    counts = {"train": 0, "validation": 0}
    for label in range(10):
        members = np.flatnonzero(digits.target == label)
        order = permutation(_SEED, "digits split", label, len(members))
        for place, index in enumerate(members[order]):
            split = "validation" if place < VALIDATION_PER_CLASS else "train"
            folder = output / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            # Not one by one atomic: the records below vouch for all of them, and 1797 fsyncs take longer than the rest.
            with naming(folder / f"{index:04d}.png"):
                Image.fromarray(pixels[index]).save(folder / f"{index:04d}.png")
            counts[split] += 1
    for split, images in counts.items():
        write_json(output / f"{split}.json", {"images": images, "classes": 10})
    logger.info("%s: %d images", output, len(pixels))
