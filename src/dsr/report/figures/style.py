"""The one look of all figures: fonts, colours, headings, and how files are written."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib.style as mpl_style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsr.base.files import atomic

INK = "#1f2328"
"""Text and arrows."""
MUTED = "#667079"
"""Secondary text."""
FRAME = "#c9ced3"
"""Frames of panels and grid lines."""
MAP = "magma"
"""Perceptual colour map of token maps and heat maps."""
BODY, SMALL, NOTE, TITLE = 9.0, 8.0, 7.0, 12.0
"""Font sizes in points."""
DPI = 200
"""Resolution of PNG files."""
EDGE = 0.15
"""Outer margin in inches."""


def style() -> AbstractContextManager[None]:
    """Draw and save inside this: settings are put back afterwards."""
    context: AbstractContextManager[None] = mpl_style.context(Path(__file__).with_name("dsr.mplstyle"))
    return context


def heading(figure: Figure, title: str, subtitle: str) -> None:
    """Write title and subtitle into the top of a figure; :func:`heading_height` is the room that they take."""
    width, height = figure.get_size_inches()
    lines = _wrapped(subtitle, width)
    place = {"x": EDGE / width, "va": "top", "ha": "left"}
    figure.text(y=1 - EDGE / height, s=title, fontsize=TITLE, fontweight="bold", **place)
    figure.text(y=1 - (EDGE + 0.26) / height, s="\n".join(lines), fontsize=SMALL, color=MUTED, linespacing=1.4, **place)


def heading_height(subtitle: str, width: float) -> float:
    """Height in inches of a heading in a figure of ``width`` inches."""
    return EDGE + 0.26 + 0.16 * len(_wrapped(subtitle, width)) + 0.08


def plot_axes(
    size: tuple[float, float], title: str, subtitle: str, names: Sequence[str], bottom: float = 0.5
) -> tuple[Figure, Axes]:
    """Return axes of ``size`` inches under a heading, with room for a legend of ``names`` at their right."""
    left = 0.62
    width = left + size[0] + 0.65 + text_width(names, SMALL)
    height = heading_height(subtitle, width) + size[1] + bottom
    figure = Figure(figsize=(width, height))
    heading(figure, title, subtitle)
    axes: Axes = figure.add_axes((left / width, bottom / height, size[0] / width, size[1] / height))
    axes.grid(color=FRAME, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _wrapped(subtitle: str, width: float) -> list[str]:
    """Lines of a subtitle; running text is narrower than the widest letters that `text_width` allows for."""
    return textwrap.wrap(subtitle, max(20, int((width - 2 * EDGE) / (0.92 * text_width(["x"], SMALL)))))


def text_width(texts: Sequence[str], size: float) -> float:
    """Width in inches of the widest text at a font size in points (DejaVu Sans; newlines respected)."""
    longest = max((len(line) for text in texts for line in text.splitlines()), default=0)
    return longest * size * 0.6 / 72


def save(figure: Figure, png: Path, svg: Path) -> None:
    """Write a figure as PNG and as SVG, without dates or versions inside."""
    for path, metadata in ((png, {"Software": None}), (svg, {"Date": None, "Creator": None})):
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=DPI, metadata=metadata)
