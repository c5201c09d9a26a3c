"""Rows of token maps: label, image, one map per column, decoded image."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from dsr.report.figures.style import FRAME, MAP, MUTED, NOTE, SMALL, grid, heading

GAP, NOTE_HEIGHT, LINE = 0.07, 0.24, 0.12
"""Inches: space between panels, which are an inch wide, room for a note below one, each further line of it."""
LABEL_CHARACTERS = 20
"""Row labels are wrapped after this many characters, between words."""

Map = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MapRow:
    """One row of panels."""

    label: str
    image: Image
    """Image left of the maps."""
    maps: Sequence[Map]
    """One (S, S) map per column."""
    notes: Sequence[str]
    """Text below each map."""
    decoded: Image
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


def draw_maps(rows: Sequence[MapRow], columns: Sequence[str], scale: Scale, *, title: str, subtitle: str) -> Figure:
    """Draw rows of panels under the headings of their ``columns``, images included."""
    wrapped = textwrap.TextWrapper(LABEL_CHARACTERS, break_long_words=False, break_on_hyphens=False)
    below = NOTE_HEIGHT + LINE * max(note.count("\n") for row in rows for note in row.notes)
    figure, places = grid(len(rows), len(columns), gaps=(GAP, below))
    heading(places[0, 0], title, subtitle, len(columns), above=28)
    for axes, column in zip(places[0], columns, strict=True):
        axes.set_title(column, fontsize=SMALL, pad=4)
    for line, row in zip(places, rows, strict=True):
        for axes in line:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=FRAME, linewidth=0.6)
        first, *middle, last = line
        first.set_ylabel(wrapped.fill(row.label), rotation=0, ha="right", va="center", labelpad=8, linespacing=1.3)
        first.imshow(row.image, interpolation="lanczos")
        last.imshow(row.decoded, interpolation="lanczos")
        for axes, values, note in zip(middle, row.maps, row.notes, strict=True):
            axes.imshow(values, cmap=MAP, norm=scale.norm, interpolation="none")
            axes.set_xlabel(note, fontsize=NOTE, color=MUTED, labelpad=2.5)
    _colour_bar(figure, scale, min(3, len(rows)) * (1 + below) - below)
    return figure


def _colour_bar(figure: Figure, scale: Scale, length: float) -> None:
    """Draw the bar, so many inches long, at the right of the first rows."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((1 + 0.17 / width, 1 - length / height, 0.14 / width, length / height))
    bar = figure.colorbar(ScalarMappable(norm=scale.norm or Normalize(0, 1), cmap=MAP), cax=axes, extend=scale.extend)
    axes.spines["outline"].set(color=FRAME, linewidth=0.6)
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
