"""Sampled images: one panel per row, ordered by class; a place in the panels is one seed and one class."""

import itertools
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from dsr.base.errors import UserError
from dsr.base.randomness import balanced_labels
from dsr.data.images import class_names
from dsr.data.npz import read_header, read_images
from dsr.report.figures.common import BODY, FigureInput, grid, heading

_WIDTH, _LARGEST, _GAPS = 10.0, 4.6, (0.2, 0.46)
"""Inches: all panels of a line, largest side of one, space between panels: beside, and below with room for labels."""
_THUMBNAIL, _BORDER = 96, 2
"""Pixels: largest side of an image in the grid, and white lines between images."""

Pictures = npt.NDArray[np.uint8]


def samples(given: FigureInput) -> Figure:
    """Draw the same samples of every entry.

    Raises:
        UserError: if the files hold different numbers of images.
    """
    config = given.config
    files = [one.samples for one in given.entries if one.samples is not None]
    counts = {read_header(path).shape[0] for path in files}
    if len(counts) > 1:
        raise UserError(f"samples of {', '.join(map(str, sorted(counts)))} images cannot be compared; sample again")
    side = math.isqrt(min(config.figures.grid, *counts))
    labels = balanced_labels(config.data.classes, counts.pop(), config.sampling.seeds[0]).numpy()
    chosen = choose_samples(labels, side * side)
    shown = np.unique(labels[chosen]).tolist()
    names = class_names(given.names) if given.names else [*map(str, range(config.data.classes))]
    classes = (
        ", ".join(names[label] for label in shown) if len(shown) <= 10 else f"{names[shown[0]]} to {names[shown[-1]]}"
    )
    text = f"the first samples of {len(shown)} of {config.data.classes} classes ({classes}), in order"
    same = ["a place is the same class and seed in every panel"] if len(files) > 1 else []
    subtitle = " · ".join([*given.subtitle, text, *same])
    across = min(3, len(files)) if len(files) != 4 else 2
    panel = min(_LARGEST, (_WIDTH + _GAPS[0]) / across - _GAPS[0])
    figure, places = grid(math.ceil(len(files) / across), across, (panel, panel), _GAPS)
    heading(places[0, 0], "Samples", subtitle, across * panel, above=24)
    for axes in places.flat:
        axes.set_axis_off()
    for axes, label, path in zip(places.flat, given.labels, files, strict=False):
        axes.imshow(tile(read_chosen(path, chosen), side), interpolation="lanczos")
        axes.set_title(label, fontsize=BODY, loc="left", pad=4)
    return figure


def choose_samples(labels: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Choose ``count`` samples without looking at them: the first ones of evenly spaced classes, in class order."""
    classes = np.unique(labels)
    if len(classes) > count:
        classes = classes[np.linspace(0, len(classes) - 1, count).round().astype(int)]
    each = [count // len(classes) + (place < count % len(classes)) for place in range(len(classes))]
    return np.concatenate(
        [np.flatnonzero(labels == label)[:number] for label, number in zip(classes, each, strict=True)]
    )


def read_chosen(path: Path, chosen: npt.NDArray[np.int64]) -> Pictures:
    """Read images (n, H, W, 3) by position; reading stops after the last one."""
    batches = itertools.chain.from_iterable(read_images(path))
    wanted, last = {*chosen.tolist()}, int(chosen.max()) + 1
    found = {place: image for place, image in enumerate(itertools.islice(batches, last)) if place in wanted}
    return np.stack([found[place] for place in chosen.tolist()])


def tile(images: Pictures, side: int) -> Image.Image:
    """Tile images (side * side, H, W, 3) row by row, large ones reduced, white in between."""
    size = min(_THUMBNAIL, images.shape[1])
    pitch = size + _BORDER
    sheet = Image.new("RGB", (side * pitch - _BORDER, side * pitch - _BORDER), "white")
    for place, image in enumerate(images):
        small = Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)
        sheet.paste(small, (place % side * pitch, place // side * pitch))
    return sheet
