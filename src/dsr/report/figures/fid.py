"""FID against epochs: measured points, published ones where they are comparable, and how much earlier one row is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator

from dsr.base.errors import UserError
from dsr.base.files import read_json
from dsr.report.figures.choose import label_of, subtitle_parts
from dsr.report.figures.style import BODY, FRAME, INK, MUTED, SMALL, heading, heading_height, series_colour, text_width
from dsr.report.published import Published
from dsr.report.specs import FigureSpec
from dsr.report.table import UNGUIDED, Entry

Curve = Sequence[tuple[int, float]]
"""(epoch, FID) points, by epoch."""

_PLOT, _LEFT, _BOTTOM, _HANDLE = (3.9, 3.6), 0.62, 0.5, 0.65
"""Inches: width and height of the plot, room for axis labels, and for the legend besides its words."""


def fid(spec: FigureSpec, inputs: Mapping[str, Path]) -> Figure:
    """Draw FID against epochs from metrics files keyed 'row:epoch'; one that does not exist yet is left out.

    Raises:
        UserError: if there is nothing to draw.
    """
    measured = read_curves(inputs)
    known = {name: spec.published_rows.get(name, name) for name in measured} if spec.published else {}
    published = {name: Published.read().chart(row) for name, row in known.items()}
    published = {name: curve for name, curve in published.items() if curve}
    points = [point for curve in [*measured.values(), *published.values()] for point in curve]
    if not points:
        raise UserError("FID against epochs: none of the metrics files exists yet; evaluate at least one row")
    parts = [*subtitle_parts(spec), "unguided"]
    subtitle = " · ".join([*parts, *(["published points: read off the paper's chart, ±0.05"] if published else [])])
    width = _LEFT + _PLOT[0] + _HANDLE + text_width([label_of(spec, name) for name in measured] + ["published"], SMALL)
    height = heading_height(subtitle, width) + _PLOT[1] + _BOTTOM
    figure = Figure(figsize=(width, height))
    heading(figure, "FID against training epochs", subtitle)
    axes = figure.add_axes((_LEFT / width, _BOTTOM / height, _PLOT[0] / width, _PLOT[1] / height))
    for number, name in enumerate(measured):
        colour = series_colour(number)
        axes.plot(*_columns(published.get(name, [])), "o--", color=colour, markerfacecolor="white", lw=1, ms=4.5)
        axes.plot(*_columns(measured[name]), "o-", color=colour, lw=1.8, ms=5.5)
    _scales(axes, points)
    _legend(axes, spec, measured, published)
    for curves, kind in ((measured, "measured"), (published, "published")):
        if _arrow(axes, curves.get(spec.baseline, []), curves.get(spec.faster, []), kind):
            break
    return figure


def read_curves(inputs: Mapping[str, Path]) -> dict[str, list[tuple[int, float]]]:
    """Read the unguided points of every row; a row without any has an empty curve."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for key, path in inputs.items():
        entry = Entry.parse(key)
        curve = curves.setdefault(entry.row, [])
        if entry.setting == UNGUIDED and path.exists():
            curve.append((entry.epoch, float(read_json(path)["fid"])))
    return {row: sorted(curve) for row, curve in curves.items()}


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


def _scales(axes: Axes, points: Curve) -> None:
    epochs = sorted({epoch for epoch, _ in points})
    values = [value for _, value in points]
    spread = (max(values) - min(values)) or max(abs(values[0]) * 0.1, 0.1)
    axes.set_xscale("log")
    axes.set_xlim(epochs[0] / 1.15, epochs[-1] * 1.15)
    axes.set_ylim(min(values) - 0.08 * spread, max(values) + 0.08 * spread)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(_apart(epochs)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(color=FRAME, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("epochs (log scale)", fontsize=BODY)
    axes.set_ylabel("FID", fontsize=BODY)


def _apart(epochs: Sequence[int]) -> list[int]:
    """Leave out ticks whose labels would touch: at least 6 % of the axis apart, both ends kept."""
    span = np.log(epochs[-1] / epochs[0]) or 1.0
    kept = [epochs[0]]
    for epoch in epochs[1:-1]:
        if min(np.log(epoch / kept[-1]), np.log(epochs[-1] / epoch)) > 0.06 * span:
            kept.append(epoch)
    return [*kept, *epochs[1:][-1:]]


def _legend(axes: Axes, spec: FigureSpec, measured: Mapping[str, Curve], published: Mapping[str, Curve]) -> None:
    """Name the rows that have points and, where both are drawn, what is measured and what is published."""
    lines = [
        Line2D([], [], color=series_colour(number), lw=1.8, label=label_of(spec, name))
        for number, name in enumerate(measured)
        if measured[name] or published.get(name)
    ]
    if published:
        if any(measured.values()):
            lines.append(Line2D([], [], color=MUTED, lw=1.8, marker="o", ms=5, label="measured"))
        lines.append(Line2D([], [], color=MUTED, lw=1, ls="--", marker="o", mfc="white", ms=4.5, label="published"))
    axes.legend(handles=lines, loc="upper left", bbox_to_anchor=(1.02, 1.02), borderaxespad=0)


def _columns(curve: Curve) -> tuple[list[int], list[float]]:
    return [epoch for epoch, _ in curve], [value for _, value in curve]
