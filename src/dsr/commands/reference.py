"""Collect prepared images into one npz, the reference that samples are compared with."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dsr.base.errors import UserError
from dsr.base.logs import command
from dsr.base.randomness import permutation
from dsr.data.images import open_images
from dsr.data.npz import write_images


@command
def main() -> None:
    """Write all images, or a random choice of them, in the order of the index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="index of the prepared images")
    parser.add_argument("--count", type=int, help="images chosen at random (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice")
    parser.add_argument("--output", type=Path, required=True, help="npz file to write")
    arguments = parser.parse_args()
    images = open_images(arguments.images)
    count = len(images) if arguments.count is None else arguments.count
    if not 0 < count <= len(images):
        raise UserError(f"--count {count}: {arguments.images} holds {len(images)} images, expected 1..{len(images)}")
    chosen = np.sort(permutation(arguments.seed, "reference", 0, len(images))[:count])
    size = images.image_size
    write_images(arguments.output, (images.read(int(index))[None] for index in chosen), count, (size, size, 3))


if __name__ == "__main__":
    main()
