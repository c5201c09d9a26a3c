"""Figures of token maps: norms, first principal component, attention received, outlier ratios."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from dsr.analysis.maps import OUTPUT, TokenMaps, outlier_ratio, relative_norms
from dsr.report.figures.given import FigureInput, choose_columns, is_denoiser, subject_of
from dsr.report.figures.panels import Map, MapRow, Scale, draw_maps
from dsr.report.figures.style import BODY, MAP, SMALL, grid, heading

_NORMS = (0.25, 8.0)
"""Range of the colours of norms, as multiples of the median."""
_CELL = (0.78, 0.44)
"""Width and height in inches of a cell of outlier ratios."""

Quantity = Callable[[TokenMaps, tuple[int, int, int]], tuple[Map, str]]
"""Map and note of a file at the positions of an image, a time and a layer."""


def norms(given: FigureInput) -> Figure:
    """Compare token norms of several files at one t."""
    return _draw(given, "Token norms in {subject}", *_norm(given))


def times(given: FigureInput) -> Figure:
    """Show token norms of one file at every t."""
    text, relative, scale = _norm(given)
    title = f"Token norms of {given.labels[0]} across noise levels"
    return _draw(given, title, f"t = 1 is noise; {text}", relative, scale, every_time=True)


def components(given: FigureInput) -> Figure:
    """Compare the first principal component of several files at one t."""

    def component(file: TokenMaps, at: tuple[int, int, int]) -> tuple[Map, str]:
        return file.components[at], f"{file.explained[at]:.0%} of variance"

    scale = Scale("projection (each map on its own scale)")
    title = "First principal component of the tokens in {subject}"
    return _draw(given, title, "signed so that the largest value is positive", component, scale)


def attention(given: FigureInput) -> Figure:
    """Compare the attention that every token receives, at one t."""

    def received(file: TokenMaps, at: tuple[int, int, int]) -> tuple[Map, str]:
        shares, registers = file.attention[at], file.register_attention[at]
        count = int(np.isfinite(file.register_norms[at]).sum())
        relative = shares * (shares.size + count)
        return relative, f"max {relative.max():.1f}×" + (f"\nregisters {registers:.0%}" if count else "")

    text = "mean over heads and queries; below each map the largest value and what all registers receive together"
    return _draw(given, "Attention received in {subject}", text, received, _attention_scale, output=False)


def outliers(given: FigureInput) -> Figure:
    """Draw the share of outlier tokens of every file (rows) after every chosen layer (columns), over all images."""
    files = given.maps()
    columns = choose_columns(given, files)
    multiple = given.config.figures.outlier_multiple

    def ratio(file: TokenMaps, layer: str) -> float:
        norms = file.norms[:, given.time_position(file), file.layer(layer)]
        return float(outlier_ratio(norms, multiple).mean())

    ratios = np.array([[ratio(file, layer) for layer in columns.layers[name]] for name, file in files.items()])
    first = next(iter(files.values()))
    parts = [*given.subtitle, f"{len(first.indices)} validation image{'s' if len(first.indices) > 1 else ''}"]
    if is_denoiser(first):
        parts.append(f"t = {first.times[given.time_position(first)]:g}")
    subtitle = " · ".join([*parts, f"share of tokens whose norm exceeds {multiple:g}× the median of their map"])
    width = len(columns.headings) * _CELL[0]
    figure, ((axes,),) = grid(1, 1, (width, len(files) * _CELL[1]))
    heading(axes, f"Outlier tokens in {subject_of(first)}", subtitle, width, above=28)
    norm = Normalize(0.0, max(float(ratios.max()), 0.01))
    axes.pcolormesh(ratios, cmap=MAP, norm=norm, edgecolors="white", linewidth=1.5)
    axes.invert_yaxis()
    axes.set_xticks(np.arange(len(columns.headings)) + 0.5, labels=columns.headings, fontsize=SMALL)
    axes.set_yticks(np.arange(len(files)) + 0.5, labels=list(files), fontsize=BODY)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=mpl.rcParams["text.color"])
    axes.spines[:].set_visible(False)
    for row, column in np.ndindex(ratios.shape):
        shade = "black" if norm(ratios[row, column]) > 0.6 else "white"
        layer = [*columns.layers.values()][row][column]
        text = f"{ratios[row, column]:.1%}" + ("" if columns.same or layer == OUTPUT else f"\nblock {layer}")
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=shade, fontsize=SMALL)
    return figure


def _draw(
    given: FigureInput,
    title: str,
    text: str,
    quantity: Quantity,
    scale: Scale | Callable[[list[MapRow]], Scale],
    *,
    every_time: bool = False,
    output: bool = True,
) -> Figure:
    """Draw a row of panels for every file, or for every t of it; with the network's output or without."""
    files = given.maps()
    columns = choose_columns(given, files)
    rows = []
    for name, file in files.items():
        image = given.image_position(file)
        for time in range(len(file.times)) if every_time else [given.time_position(file)]:
            shown = [layer for layer in columns.layers[name] if output or layer != OUTPUT]
            panels = [quantity(file, (image, time, file.layer(layer))) for layer in shown]
            notes = [
                note if columns.same or layer == OUTPUT else f"block {layer}\n{note}"
                for layer, (_, note) in zip(shown, panels, strict=True)
            ]
            label = f"t = {file.times[time]:g}" if every_time else name
            maps = [values for values, _ in panels]
            rows.append(MapRow(label, file.images[image], maps, notes, file.decoded[image, time]))
    first = next(iter(files.values()))
    parts = [*given.subtitle, f"validation image {first.indices[given.image_position(first)]}"]
    if is_denoiser(first) and not every_time:
        parts.append(f"t = {first.times[given.time_position(first)]:g}")
    decoded = "prediction" if is_denoiser(first) else "decoded"
    return draw_maps(
        rows,
        ["image", *(heading for heading in columns.headings if output or heading != OUTPUT), decoded],
        scale if isinstance(scale, Scale) else scale(rows),
        title=title.format(subject=subject_of(first)),
        subtitle=" · ".join([*parts, text]),
    )


def _norm(given: FigureInput) -> tuple[str, Quantity, Scale]:
    """What is said of norms, and how they are shown: in the same colours in all figures, so that they compare."""
    multiple, (low, high) = given.config.figures.outlier_multiple, _NORMS

    def relative(file: TokenMaps, at: tuple[int, int, int]) -> tuple[Map, str]:
        multiples = relative_norms(file.norms[at])
        return multiples, f"max {multiples.max():.1f}×, {outlier_ratio(file.norms[at], multiple):.1%}"

    norm = LogNorm(low, max(high, multiple), clip=True)
    scale = Scale("norm / median", norm, (low, 0.5, 1, 2, 4, high), mark=(multiple, "outlier"), extend="both")
    text = "norm as a multiple of the map's median; below each map its largest value and the share of outliers"
    return f"{text} (above {multiple:g}×)", relative, scale


def _attention_scale(rows: list[MapRow]) -> Scale:
    values = np.concatenate([values.ravel() for row in rows for values in row.maps])
    values = np.asarray(values[np.isfinite(values)], np.float64)
    low, high = max(values.min(), 0.05, values.max() / 1000), max(values.max(), 2.0)
    steps = [digit * 10.0**power for power in range(-3, 5) for digit in (1, 2, 5)]
    ticks = [step for step in steps if low <= step <= high]
    return Scale("attention received (1 = equal shares)", LogNorm(low, high, clip=True), ticks)
