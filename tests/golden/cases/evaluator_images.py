"""The images of the end-to-end cases: stored in the file, or drawn again from the recipe that it states."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Images:
    """uint8 images (n, S, S, 3); those for statistics only where the reference stores moments."""

    folder: Path
    reference: np.ndarray
    sample: np.ndarray
    statistics: np.ndarray | None = None


def images_of(path: Path) -> Images:
    """Read or draw the images of one file.

    Raises:
        ValueError: if the recipe is not understood, or drawn images do not have the recorded hash.
    """
    with np.load(path, allow_pickle=False) as file:
        if "recipe" not in file.files:
            return Images(path.parent, file["ref"], file["sample"])
        recipe, seed = str(file["recipe"]), int(file["seed"])
        counts = {name: int(file[f"n_{name}"]) for name in ("ref", "stat", "sample")}
        hashes = {name: str(file[f"sha_{name}"]) for name in counts}
    calls = re.findall(r"images\(seed\+(\d+),\w+(?:,shift=(-?\d+))?\)", recipe)
    size = re.search(r"(\d+)x\1\b", recipe)
    if len(calls) != 3 or size is None:
        raise ValueError(f"{path.name}: cannot read the recipe '{recipe}'")
    drawn = {}
    for (name, count), (offset, shift) in zip(counts.items(), calls, strict=True):
        drawn[name] = draw(seed + int(offset), count, int(size[1]), int(shift or 0))
        if hashlib.sha256(drawn[name].tobytes()).hexdigest() != hashes[name]:
            raise ValueError(f"{path.name}: the images drawn for '{name}' are not the recorded ones")
    return Images(path.parent, drawn["ref"], drawn["sample"], drawn["stat"])


def draw(seed: int, count: int, size: int, shift: int = 0) -> np.ndarray:
    """Colour gradients with one to four discs under a chequered pattern; ``shift`` brightens the gradients."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    images = np.empty((count, size, size, 3), np.uint8)
    for image in images:
        start = random.integers(0, 200, 3) + shift
        slope_x, slope_y = random.integers(-3, 4, 3), random.integers(-3, 4, 3)
        pixels = start + slope_x * x[..., None] + slope_y * y[..., None]
        for _ in range(random.integers(1, 5)):
            centre_y, centre_x = random.integers(0, size, 2)
            radius = random.integers(size // 16, size // 2)
            colour = random.integers(0, 256, 3)
            pixels[(y - centre_y) ** 2 + (x - centre_x) ** 2 <= radius**2] = colour
        period_y, period_x = random.integers(2, 9, 2)
        pixels += random.integers(0, 40) * ((y // period_y + x // period_x) % 2)[..., None]
        image[:] = np.clip(pixels, 0, 255)
    return images
