"""Sampled images: one panel per row, ordered by class; a place in the panels is one seed and one class. And the images
that encoder and decoder give back."""

import itertools
import math
import textwrap
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

_ACROSS, _GAP = 8, 0.05
"""Reconstructed images in a line; inches between them."""

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
    epochs = len({one.epoch for one in given.entries})
    complete = len(files) == epochs * len({one.row for one in given.entries})
    # A line a row, where each has the same epochs.
    across = epochs if 1 < epochs <= 4 and complete else 2 if len(files) == 4 else min(3, len(files))
    panel = min(_LARGEST, (_WIDTH + _GAPS[0]) / across - _GAPS[0])
    figure, places = grid(math.ceil(len(files) / across), across, (panel, panel), _GAPS)
    heading(places[0, 0], "Samples", subtitle, across * panel, above=24)
    for axes in places.flat:
        axes.set_axis_off()
    for axes, label, path in zip(places.flat, given.labels, files, strict=False):
        axes.imshow(tile(read_chosen(path, chosen), side))
        axes.set_title(label, fontsize=BODY, loc="left", pad=4)
    return figure


def reconstruction(given: FigureInput) -> Figure:
    """Draw images in the first line, and what every other entry's encoder and decoder make of them below."""
    files = {label or "original": one.samples for label, one in zip(given.labels, given.entries, strict=True)}
    count = min(read_header(path).shape[0] for path in files.values() if path)
    chosen = np.unique(np.linspace(0, count - 1, _ACROSS).round().astype(np.int64))
    figure, places = grid(len(files), len(chosen), gaps=(_GAP, _GAP))
    subtitle = " · ".join([*given.subtitle, f"validation images {', '.join(map(str, chosen))}"])
    heading(places[0, 0], "Reconstruction", subtitle, len(chosen))
    for line, (label, path) in zip(places, files.items(), strict=True):
        words = textwrap.fill(label, 20, break_on_hyphens=False)
        line[0].set_ylabel(words, rotation=0, ha="right", va="center", labelpad=8)
        for axes, image in zip(line, read_chosen(path, chosen) if path else (), strict=True):
            axes.imshow(image)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=False)
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
