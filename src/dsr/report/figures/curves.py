"""FID against epochs and against the decay of the moving average of the weights; loss and gradient norm against steps.

Against epochs: measured points, published ones where they are comparable, and how much earlier one row is.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, NullLocator

from dsr.analysis.track import half_width
from dsr.base.errors import UserError
from dsr.base.files import read_json_lines
from dsr.config.load import Config
from dsr.report.entries import Entry
from dsr.report.figures.common import INK, MUTED, SMALL, FigureInput, grid, heading
from dsr.report.published import Published, departures

Curve = Sequence[tuple[int, float]]
"""(epoch, FID) points, by epoch."""


def fid(given: FigureInput) -> Figure:
    """Draw FID against epochs; metrics files that do not exist yet are left out.

    Raises:
        UserError: if there is nothing to draw.
    """
    config, measured, lists = given.config, read_curves(given.entries), Published()
    published = {
        name: [] if departures(config, name) else lists.chart(config.rows[name].compare_with or name)
        for name in measured
    }
    epochs = sorted({epoch for curves in (measured, published) for curve in curves.values() for epoch, _ in curve})
    if not epochs:
        raise UserError("FID against epochs: none of the metrics files exists yet; evaluate at least one row")
    off_chart = ["published: read off the paper's chart, in the band of other runs"] if any(published.values()) else []
    subtitle = " · ".join([config.name, "unguided", *off_chart])
    figure, axes = _plot((3.9, 3.6), "FID against training epochs", subtitle)
    for number, (name, curve) in enumerate(measured.items()):
        colour, known = f"C{number}", published[name]
        across, points = np.reshape(known, (-1, 2)).T
        band = half_width(points)
        axes.fill_between(across, points - band, points + band, color=colour, alpha=0.12, lw=0)
        axes.plot(across, points, "o--", color=colour, markerfacecolor="white", lw=1, ms=4.5)
        axes.plot(*np.reshape(curve, (-1, 2)).T, "o-", color=colour, lw=1.8, ms=5.5)
        if curve or known:
            axes.plot([], [], color=colour, lw=1.8, label=name)
    if off_chart and any(measured.values()):
        axes.plot([], [], color=MUTED, lw=1.8, marker="o", ms=5, label="measured")
    if off_chart:
        axes.plot([], [], color=MUTED, lw=1, ls="--", marker="o", mfc="white", ms=4.5, label="published")
    _finish(axes, {epoch: str(epoch) for epoch in _apart(epochs)}, "epochs (log scale)")
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
    figure, axes = _plot((3.9, 3.0), "FID against the decay of the moving average", subtitle)
    for epoch, line in sorted(lines.items()):
        decays, fids = np.transpose(sorted(line))
        axes.plot(1 / (1 - decays), fids, "o-", lw=1.8, ms=5.5, label=f"epoch {epoch}")
    ticks = {1 / (1 - decay): f"{decay:g}" for line in lines.values() for decay, _ in sorted(line)}
    _finish(axes, ticks, "EMA decay (scale: steps that the average reaches back, logarithmic)")
    return figure


def training(given: FigureInput) -> Figure:
    """Draw loss and gradient norm of all rows, from the trainer's own records; a row without one is left out.

    Raises:
        UserError: if no row has a record.
    """
    runs = {one.row: read_steps(one.record) for one in given.entries if one.record and one.record.exists()}
    if not any(runs.values()):
        raise UserError("Loss and gradient norm: no row has been trained yet")
    figure, ((upper,), (lower,)) = grid(2, 1, (4.6, 1.9), (0.0, 0.35))
    heading(upper, "Loss and gradient norm", f"{given.config.name} · means over the steps between two reports", 5.6)
    for axes, name, label in ((upper, "loss", "loss"), (lower, "grad_norm", "gradient norm")):
        for number, (row, steps) in enumerate(runs.items()):
            points = [(step, line[name]) for step, line in steps.items() if name in line]
            size = 3 if len(points) < 50 else 0
            axes.plot(*zip(*points, strict=True), color=f"C{number}", lw=1.2, marker="o", ms=size, label=row)
        axes.set_ylabel(label)
        axes.grid()
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("optimizer steps")
    upper.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02))
    return figure


def _plot(size: tuple[float, float], title: str, subtitle: str) -> tuple[Figure, Axes]:
    """Return axes of ``size`` inches under a heading."""
    figure, ((axes,),) = grid(1, 1, size)
    heading(axes, title, subtitle, size[0] + 1)
    axes.grid()
    return figure, axes


def _finish(axes: Axes, ticks: Mapping[float, str], label: str) -> None:
    """Label the axes, the lower one logarithmic with these ticks and no others, and the curves."""
    axes.set_xscale("log")
    axes.margins(0.08)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks([*ticks], labels=[*ticks.values()])
    axes.set(xlabel=label, ylabel="FID")
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02))


def read_curves(entries: Iterable[Entry]) -> dict[str, list[tuple[int, float]]]:
    """Read the points of every row; a row without any has an empty curve."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for one in entries:
        curve = curves.setdefault(one.row, [])
        if one.scores:
            curve.append((one.epoch, one.scores["fid"]))
    return {row: sorted(curve) for row, curve in curves.items()}


def read_steps(record: Path) -> dict[int, dict[str, float]]:
    """Read a record by step; of several lines with one step the one of the last start counts."""
    lines = sorted(read_json_lines(record), key=lambda line: line["restart"])
    return dict(sorted({line["step"]: line for line in lines}.items()))


def registers_alone(config: Config) -> tuple[str, str]:
    """Return the first row with both kinds of registers, after the row that differs in nothing else; else nothing."""
    for faster, row in config.rows.items():
        for baseline, other in config.rows.items():
            same = (row.encoder, row.denoiser, row.recipe) == (other.encoder, other.denoiser, other.recipe)
            if same and row.ttr != "none" and row.registers and other.ttr == "none" and not other.registers:
                return baseline, faster
    return "", ""


def epoch_reaching(curve: Curve, target: float) -> tuple[float, tuple[int, int] | None] | None:
    """Return the first epoch at which a curve is at ``target`` or below, or None if it never is.

    Between points FID is taken as linear in the logarithm of the epoch; the two points that it was interpolated between
    come with it, or None at a point. A curve that starts below the target gives its first epoch, an upper bound.
    """
    before: tuple[int, float] | None = None
    for epoch, value in curve:
        if value <= target:
            if before is None or value == target:
                return float(epoch), None
            share = (before[1] - target) / (before[1] - value)
            return before[0] * (epoch / before[0]) ** share, (before[0], epoch)
        before = (epoch, value)
    return None


def _arrow(axes: Axes, baseline: Curve, faster: Curve, kind: str) -> bool:
    """Point from the baseline's last FID to where the other curve reaches it; False if it does not before.

    The words stand in the upper right corner, where falling curves leave room.
    """
    if not (baseline and faster):
        return False
    last, value = baseline[-1]
    epoch, between = epoch_reaching(faster, value) or (last, None)
    if epoch >= last:
        return False
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 4, "shrinkB": 0}
    axes.annotate("", xy=(epoch, value), xytext=(last, value), arrowprops=arrow, zorder=4)
    bound = ("at least ", "or before ") if epoch == faster[0][0] else ("", "")
    words = (
        f"{bound[0]}{last / epoch:.1f}× fewer epochs ({kind})\n"
        f"FID {value:.2f} at epoch {bound[1]}{epoch:.0f}, not {last}"
    )
    if between:
        words += "\ninterpolated between epochs {} and {}".format(*between)
    text = axes.text(0.98, 0.98, words, transform=axes.transAxes, ha="right", va="top", fontsize=SMALL, linespacing=1.5)
    text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    return True


def _apart(epochs: Sequence[int]) -> list[int]:
    """Leave out epochs whose labels would touch others (less than 6 % of the axis apart), but not the ends."""
    span = np.log(epochs[-1] / epochs[0]) or 1.0
    kept = [epochs[0]]
    for epoch in epochs[1:-1]:
        if min(np.log(epoch / kept[-1]), np.log(epochs[-1] / epoch)) > 0.06 * span:
            kept.append(epoch)
    return [*kept, epochs[-1]]
