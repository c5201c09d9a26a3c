"""Collect prepared images into one npz, the reference that samples are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dsr.base.command import command
from dsr.base.errors import UserError
from dsr.base.randomness import permutation
from dsr.data.images import open_images
from dsr.data.npz import write_images


@command
def main(images: Path, output: Path, count: int | None = None, seed: int = 0) -> None:
    """Write all images, or a random choice of them, in the order of the index.

    Args:
        images: Index of the prepared images.
        output: Npz file to write.
        count: Images chosen at random (default: all).
        seed: Seed of the choice.
    """
    source = open_images(images)
    count = len(source) if count is None else count
    if not 0 < count <= len(source):
        raise UserError(f"--count {count}: {images} holds {len(source)} images, expected 1..{len(source)}")
    chosen = np.sort(permutation(seed, "reference", 0, len(source))[:count])
    size = source.image_size
    write_images(output, (source.read(int(index))[None] for index in chosen), count, (size, size, 3))


if __name__ == "__main__":
    main()
