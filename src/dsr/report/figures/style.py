"""The one look of all figures: fonts, colours, headings, and how files are written.

Axes have sizes in inches; headings, labels and legends lie around them, and a file is as large as all of it.
"""

import textwrap
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

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


def grid(
    down: int, across: int, size: tuple[float, float] = (1.0, 1.0), gaps: tuple[float, float] = (0.0, 0.0)
) -> tuple[Figure, Any]:
    """Return a figure and its axes (down, across), each of ``size`` (width, height) inches with ``gaps`` between."""
    (width, height), (between, below) = size, gaps
    figure = Figure(figsize=(across * (width + between) - between, down * (height + below) - below))
    spacing = {"wspace": between / width, "hspace": below / height}
    whole = {"left": 0, "right": 1, "bottom": 0, "top": 1}
    return figure, figure.subplots(down, across, squeeze=False, gridspec_kw=whole | spacing)


def plot(size: tuple[float, float], title: str, subtitle: str) -> tuple[Figure, Axes]:
    """Return axes of ``size`` inches under a heading."""
    figure, ((axes,),) = grid(1, 1, size)
    heading(axes, title, subtitle, size[0] + 1)
    axes.grid(color=FRAME, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def heading(axes: Axes, title: str, subtitle: str, width: float, above: float = 12) -> None:
    """Write title and subtitle, ``width`` inches wide, ``above`` points over the upper left corner of the axes."""
    place: dict[str, Any] = {"textcoords": "offset points", "va": "bottom", "annotation_clip": False}
    lines = textwrap.fill(subtitle, max(30, int(16 * width)))
    below = axes.annotate(
        lines, (0, 1), (0, above), "axes fraction", fontsize=SMALL, color=MUTED, linespacing=1.4, **place
    )
    axes.annotate(title, (0, 1), (0, 5), below, fontsize=TITLE, fontweight="bold", **place)


def save(figure: Figure, png: Path, svg: Path) -> None:
    """Write a figure as PNG and as SVG, without dates or versions inside."""
    for path, metadata in ((png, {"Software": None}), (svg, {"Date": None, "Creator": None})):
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=DPI, metadata=metadata, bbox_inches="tight", pad_inches=EDGE)
