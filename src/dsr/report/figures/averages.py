"""FID against the decay of the moving average of the weights, for one row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from dsr.base.errors import UserError
from dsr.base.files import read_json
from dsr.report.figures.choose import label_of, subtitle_parts
from dsr.report.figures.style import BODY, FRAME, SMALL, heading, heading_height, series_colour, text_width
from dsr.report.specs import FigureSpec

_PLOT, _LEFT, _BOTTOM, _LEGEND = (3.9, 3.0), 0.62, 0.62, 0.65
"""Inches: width and height of the plot, room for axis labels, and for the legend besides its words."""


class Average(NamedTuple):
    """What one metrics file is about."""

    row: str
    epoch: int
    decay: float

    @classmethod
    def parse(cls, text: str) -> Average:
        """Parse 'row:epoch:decay'.

        Raises:
            UserError: if it is something else.
        """
        row, _, rest = text.partition(":")
        epoch, _, decay = rest.partition(":")
        if not (row and epoch.isdigit() and decay.replace(".", "", 1).isdigit() and 0 < float(decay) < 1):
            raise UserError(f"'{text}' is not row:epoch:decay")
        return cls(row, int(epoch), float(decay))


def averages(spec: FigureSpec, inputs: Mapping[str, Path]) -> Figure:
    """Draw FID against decay from metrics files keyed 'row:epoch:decay', a line an epoch; missing files are left out.

    The axis is the number of steps that an average reaches back, 1 / (1 - decay), on a logarithmic scale.

    Raises:
        UserError: if there is nothing to draw, or there are several rows.
    """
    found = {Average.parse(key): path for key, path in inputs.items()}
    points = {average: float(read_json(path)["fid"]) for average, path in found.items() if path.exists()}
    rows = list(dict.fromkeys(average.row for average in found))
    if not points or len(rows) != 1:
        raise UserError(f"FID against EMA decay: {len(points)} metrics files of {len(rows)} rows, expected some of one")
    epochs = sorted({average.epoch for average in points})
    decays = sorted({average.decay for average in points})
    subtitle = " · ".join([*subtitle_parts(spec), label_of(spec, rows[0]), "unguided, one training run"])
    width = _LEFT + _PLOT[0] + _LEGEND + text_width([f"epoch {epoch}" for epoch in epochs], SMALL)
    height = heading_height(subtitle, width) + _PLOT[1] + _BOTTOM
    figure = Figure(figsize=(width, height))
    heading(figure, "FID against the decay of the moving average", subtitle)
    axes = figure.add_axes((_LEFT / width, _BOTTOM / height, _PLOT[0] / width, _PLOT[1] / height))
    for number, epoch in enumerate(epochs):
        line = sorted((average.decay, fid) for average, fid in points.items() if average.epoch == epoch)
        reach = [1 / (1 - decay) for decay, _ in line]
        values = [fid for _, fid in line]
        axes.plot(reach, values, "o-", color=series_colour(number), lw=1.8, ms=5.5, label=f"epoch {epoch}")
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - decay) for decay in decays]))
    axes.set_xticklabels([f"{decay:g}" for decay in decays])
    axes.margins(0.08)
    axes.grid(color=FRAME, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("EMA decay (scale: steps that the average reaches back, logarithmic)", fontsize=BODY)
    axes.set_ylabel("FID", fontsize=BODY)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02), borderaxespad=0)
    return figure
