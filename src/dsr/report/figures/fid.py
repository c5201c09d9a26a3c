"""FID against epochs, and against the decay of the moving average of the weights.

Against epochs: measured points, published ones where they are comparable, and how much earlier one row is.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator

from dsr.base.errors import UserError
from dsr.config.load import Config
from dsr.report.entries import Entry
from dsr.report.figures.given import FigureInput
from dsr.report.figures.style import BODY, INK, MUTED, SMALL, plot
from dsr.report.published import Published, departures

Curve = Sequence[tuple[int, float]]
"""(epoch, FID) points, by epoch."""


def fid(given: FigureInput) -> Figure:
    """Draw FID against epochs; metrics files that do not exist yet are left out.

    Raises:
        UserError: if there is nothing to draw.
    """
    config, measured, published = given.config, read_curves(given.entries), {}
    lists = Published()
    for name in measured:
        curve = [] if departures(config, name) else lists.chart(config.rows[name].compare_with or name)
        if curve:
            published[name] = curve
    points = [point for curve in [*measured.values(), *published.values()] for point in curve]
    if not points:
        raise UserError("FID against epochs: none of the metrics files exists yet; evaluate at least one row")
    off_chart = ["published points: read off the paper's chart, ±0.05"] if published else []
    subtitle = " · ".join([config.name, "unguided", *off_chart])
    figure, axes = plot((3.9, 3.6), "FID against training epochs", subtitle)
    for number, name in enumerate(measured):
        colour, known = f"C{number}", published.get(name, [])
        axes.plot(*np.reshape(known, (-1, 2)).T, "o--", color=colour, markerfacecolor="white", lw=1, ms=4.5)
        axes.plot(*np.reshape(measured[name], (-1, 2)).T, "o-", color=colour, lw=1.8, ms=5.5)
        if measured[name] or known:
            axes.plot([], [], color=colour, lw=1.8, label=name)
    if published and any(measured.values()):
        axes.plot([], [], color=MUTED, lw=1.8, marker="o", ms=5, label="measured")
    if published:
        axes.plot([], [], color=MUTED, lw=1, ls="--", marker="o", mfc="white", ms=4.5, label="published")
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02), borderaxespad=0)
    _epochs(axes, sorted({epoch for epoch, _ in points}))
    baseline, faster = registers_alone(config)
    for found, kind in ((measured, "measured"), (published, "published")):
        if _arrow(axes, found.get(baseline, []), found.get(faster, []), kind):
            break
    return figure


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


def read_curves(entries: Iterable[Entry]) -> dict[str, list[tuple[int, float]]]:
    """Read the points of every row; a row without any has an empty curve."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for one in entries:
        curve = curves.setdefault(one.row, [])
        if one.scores:
            curve.append((one.epoch, one.scores["fid"]))
    return {row: sorted(curve) for row, curve in curves.items()}


def registers_alone(config: Config) -> tuple[str, str]:
    """Return the first row with both kinds of registers, after the row that differs in nothing else; else nothing."""
    for faster, row in config.rows.items():
        for baseline, other in config.rows.items():
            same = (row.encoder, row.denoiser, row.recipe) == (other.encoder, other.denoiser, other.recipe)
            if same and row.ttr != "none" and row.registers and other.ttr == "none" and not other.registers:
                return baseline, faster
    return "", ""


class Reached(NamedTuple):
    """When a curve reaches a value."""

    epoch: float
    """Epoch; between points FID is taken as linear in the logarithm of the epoch."""
    between: tuple[int, int] | None
    """The points between which it was interpolated; None at a point."""


def epoch_reaching(curve: Curve, target: float) -> Reached | None:
    """Return the first epoch at which a curve is at ``target`` or below, or None if it never is.

    A curve that starts below the target gives its first epoch, an upper bound.
    """
    before: tuple[int, float] | None = None
    for epoch, value in curve:
        if value <= target:
            if before is None or value == target:
                return Reached(float(epoch), None)
            share = (before[1] - target) / (before[1] - value)
            return Reached(before[0] * (epoch / before[0]) ** share, (before[0], epoch))
        before = (epoch, value)
    return None


def _arrow(axes: Axes, baseline: Curve, faster: Curve, kind: str) -> bool:
    """Point from the baseline's last FID to where the other curve reaches it; False if it does not before.

    The words stand in the upper right corner, where falling curves leave room.
    """
    if not (baseline and faster):
        return False
    epoch, value = baseline[-1]
    reached = epoch_reaching(faster, value)
    if reached is None or reached.epoch >= epoch:
        return False
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 4, "shrinkB": 0}
    axes.annotate("", xy=(reached.epoch, value), xytext=(epoch, value), arrowprops=arrow, zorder=4)
    bound = ("at least ", "or before ") if reached.epoch == faster[0][0] else ("", "")
    words = (
        f"{bound[0]}{epoch / reached.epoch:.1f}× fewer epochs ({kind})\n"
        f"FID {value:.2f} at epoch {bound[1]}{reached.epoch:.0f}, not {epoch}"
    )
    if reached.between:
        words += "\ninterpolated between epochs {} and {}".format(*reached.between)
    text = axes.text(0.98, 0.98, words, transform=axes.transAxes, ha="right", va="top", fontsize=SMALL, linespacing=1.5)
    text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    return True


def _epochs(axes: Axes, epochs: Sequence[int]) -> None:
    """Label the axes; ticks whose labels would touch (less than 6 % of the axis apart) are left out, not the ends."""
    span = np.log(epochs[-1] / epochs[0]) or 1.0
    kept = [epochs[0]]
    for epoch in epochs[1:-1]:
        if min(np.log(epoch / kept[-1]), np.log(epochs[-1] / epoch)) > 0.06 * span:
            kept.append(epoch)
    axes.set_xscale("log")
    axes.margins(0.08)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks([*kept, epochs[-1]], labels=[*map(str, [*kept, epochs[-1]])])
    axes.set_xlabel("epochs (log scale)", fontsize=BODY)
    axes.set_ylabel("FID", fontsize=BODY)
