"""Rows of token maps: label, image, one map per column, decoded image; sized in inches so that nothing overlaps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from dsr.report.figures.style import BODY, EDGE, FRAME, MAP, MUTED, NOTE, SMALL, heading, heading_height, text_width

CELL, GAP, NOTE_HEIGHT, LINE, HEADER = 1.0, 0.07, 0.17, 0.12, 0.24
"""Inches: side of a panel, space between panels, a note below one, each further line of it, column headings."""
BAR, BAR_WIDTH = 1.05, 0.14
"""Inches: room at the right for the colour bar with its labels, and its own width."""
LABEL_CHARACTERS = 20
"""Row labels are wrapped after this many characters, between words."""

Map = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MapRow:
    """One row of panels."""

    label: str
    maps: Sequence[Map]
    """One (S, S) map per column."""
    notes: Sequence[str]
    """Text below each map."""
    before: Image | None = None
    """Image left of the maps."""
    after: Image | None = None
    """Image right of the maps."""


@dataclass(frozen=True)
class Scale:
    """How values become colours."""

    label: str
    norm: Normalize | None = None
    """One scale for all maps; None scales every map to its own range."""
    ticks: Sequence[float] = ()
    """Labelled values of the colour bar."""
    mark: tuple[float, str] | None = None
    """A value to point out on the colour bar."""
    extend: Literal["neither", "both"] = "neither"
    """Whether values beyond the ends have the colours of the ends."""


def draw_maps(
    rows: Sequence[MapRow],
    columns: Sequence[str],
    scale: Scale,
    *,
    title: str,
    subtitle: str,
    before: str = "",
    after: str = "",
) -> Figure:
    """Draw rows of maps under ``columns``; ``before`` and ``after`` head the columns of images."""
    wrapped = textwrap.TextWrapper(LABEL_CHARACTERS, break_long_words=False, break_on_hyphens=False)
    labels = [wrapped.fill(row.label) for row in rows]
    heads = [before] * bool(before) + list(columns) + [after] * bool(after)
    left = EDGE + text_width(labels, BODY) + 0.12
    width = left + len(heads) * (CELL + GAP) + BAR
    notes = max(note.count("\n") for row in rows for note in row.notes) * LINE + NOTE_HEIGHT
    pitch = CELL + notes + GAP
    top = heading_height(subtitle, width) + HEADER
    height = top + len(rows) * pitch + EDGE
    figure = Figure(figsize=(width, height))
    heading(figure, title, subtitle)

    for column, head in enumerate(heads):
        x = left + column * (CELL + GAP) + CELL / 2
        figure.text(x / width, 1 - (top - 0.06) / height, head, ha="center", va="bottom", fontsize=SMALL)
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = top + number * pitch
        figure.text((left - 0.12) / width, 1 - (y + CELL / 2) / height, label, ha="right", va="center", linespacing=1.3)
        images = [[] if image is None else [image] for image in (row.before, row.after)]
        for column, content in enumerate([*images[0], *row.maps, *images[1]]):
            box = (left + column * (CELL + GAP), height - y - CELL, CELL, CELL)
            axes = _axes(figure, box)
            place = column - len(images[0])
            if 0 <= place < len(row.maps):
                axes.imshow(content, cmap=MAP, norm=scale.norm, interpolation="none")
                axes.set_xlabel(row.notes[place], fontsize=NOTE, color=MUTED, labelpad=2.5)
            else:
                axes.imshow(content, interpolation="lanczos")
    _colour_bar(figure, scale, left + len(heads) * (CELL + GAP) + 0.1, top, len(rows) * pitch - notes - GAP)
    return figure


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes without ticks at (left, bottom, width, height) in inches."""
    width, height = figure.get_size_inches()
    axes: Axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=FRAME, linewidth=0.6)
    return axes


def _colour_bar(figure: Figure, scale: Scale, left: float, top: float, height: float) -> None:
    """Draw the bar beside the first rows, at most three panels high."""
    height = min(height, 3 * CELL)
    axes = _axes(figure, (left, figure.get_size_inches()[1] - top - height, BAR_WIDTH, height))
    bar = figure.colorbar(ScalarMappable(norm=scale.norm or Normalize(0, 1), cmap=MAP), cax=axes, extend=scale.extend)
    bar.ax.minorticks_off()
    if scale.norm is None:
        bar.set_ticks([0, 1], labels=["min", "max"])
    else:
        marked = {scale.mark[0]: f"{scale.mark[0]:g} ({scale.mark[1]})"} if scale.mark else {}
        apart = [tick for tick in scale.ticks if all(abs(np.log(tick / mark)) > 0.25 for mark in marked)]
        bar.set_ticks([*apart, *marked], labels=[f"{tick:g}" for tick in apart] + list(marked.values()))
        for value in marked:
            bar.ax.axhline(value, color="white", linewidth=1.2)
    bar.ax.tick_params(labelsize=NOTE, length=2, color=FRAME)
    bar.set_label(scale.label, fontsize=NOTE, color=MUTED, labelpad=4)
