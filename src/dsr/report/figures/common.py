"""What figures are drawn from, and what they share: colours, sizes, headings; the rest of the look is in dsr.mplstyle.

Axes have sizes in inches; headings, labels and legends lie around them.
"""

import textwrap
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style as mpl_style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsr.analysis.maps import TokenMaps
from dsr.config.load import Config
from dsr.report.entries import Entry

INK, MUTED, FRAME = "#1f2328", "#667079", "#c9ced3"
"""Colours of text and arrows, of secondary text, of frames and grid lines."""
BODY, SMALL, NOTE, TITLE = 9.0, 8.0, 7.0, 12.0
"""Font sizes in points."""
_TTR = {"none": "", "single": " + test-time register", "recursive": " + recursive test-time register"}


@dataclass(frozen=True)
class FigureInput:
    """What a figure is drawn from."""

    config: Config
    entries: tuple[Entry, ...]
    """What it shows, in order."""
    image: int | None = None
    """Validation image whose token maps it shows; None is the first one in the file."""
    names: Path | None = None
    """Index of prepared images, whose class folders name the classes."""

    @property
    def labels(self) -> list[str]:
        """Labels of maps and samples: the encoder, or the row, with its epoch if the epochs differ."""
        several = len({one.epoch for one in self.entries}) > 1
        return [
            (f"{one.row}, epoch {one.epoch}" if several else one.row) or one.encoder + _TTR[one.ttr]
            for one in self.entries
        ]

    @property
    def subtitle(self) -> list[str]:
        """What the subtitle of maps and samples begins with: the project, and the epoch if all have the same."""
        epochs = {one.epoch for one in self.entries if one.row}
        return [self.config.name, *(f"epoch {epoch}" for epoch in epochs if len(epochs) == 1)]

    def maps(self) -> dict[str, TokenMaps]:
        """Read the maps files, by label."""
        files = zip(self.labels, self.entries, strict=True)
        return {label: TokenMaps.load(one.maps) for label, one in files if one.maps is not None}

    def image_position(self, file: TokenMaps) -> int:
        """Position of the image to show."""
        return 0 if self.image is None else file.image(self.image)

    def time_position(self, file: TokenMaps) -> int:
        """Position of the time at which rows are compared; an encoder has only one."""
        times = self.config.figures.times
        return 0 if len(file.times) == 1 else file.time(times[len(times) // 2])


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


def heading(axes: Axes, title: str, subtitle: str, width: float, above: float = 12) -> None:
    """Write title and subtitle, ``width`` inches wide, ``above`` points over the upper left corner of the axes."""
    place: dict[str, Any] = {"textcoords": "offset points", "va": "bottom", "annotation_clip": False}
    lines = textwrap.fill(subtitle, max(30, int(16 * width)))
    below = axes.annotate(
        lines, (0, 1), (0, above), "axes fraction", fontsize=SMALL, color=MUTED, linespacing=1.4, **place
    )
    axes.annotate(title, (0, 1), (0, 5), below, fontsize=TITLE, fontweight="bold", **place)
