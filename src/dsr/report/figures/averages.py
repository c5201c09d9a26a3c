"""FID against the decay of the moving average of the weights, for one row."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from dsr.base.errors import UserError
from dsr.report.figures.given import FigureInput
from dsr.report.figures.style import BODY, plot


def averages(given: FigureInput) -> Figure:
    """Draw FID against decay, a line an epoch; metrics files that do not exist are left out.

    The axis is the number of steps that an average reaches back, 1 / (1 - decay), on a logarithmic scale.

    Raises:
        UserError: if there is nothing to draw, or there are several rows.
    """
    rows = {one.row for one in given.entries}
    lines: dict[int, list[tuple[float, float]]] = {}
    for one in given.entries:
        if one.scores:
            decay = one.decay or given.config.averages(one.row)[0]
            lines.setdefault(one.epoch, []).append((decay, one.scores["fid"]))
    if not lines or len(rows) != 1:
        raise UserError(f"FID against EMA decay: metrics of {len(lines)} epochs of {len(rows)} rows, expected one row")
    subtitle = " · ".join([given.config.name, *rows, "unguided, one training run"])
    figure, axes = plot((3.9, 3.0), "FID against the decay of the moving average", subtitle)
    for epoch, line in sorted(lines.items()):
        reach, fids = zip(*((1 / (1 - decay), fid) for decay, fid in sorted(line)), strict=True)
        axes.plot(reach, fids, "o-", lw=1.8, ms=5.5, label=f"epoch {epoch}")
    decays = sorted({decay for line in lines.values() for decay, _ in line})
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - decay) for decay in decays]))
    axes.set_xticklabels([f"{decay:g}" for decay in decays])
    axes.margins(0.08)
    axes.set_xlabel("EMA decay (scale: steps that the average reaches back, logarithmic)", fontsize=BODY)
    axes.set_ylabel("FID", fontsize=BODY)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02), borderaxespad=0)
    return figure
