"""Figures of token maps: norms, first principal component, attention received, outlier ratios."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from dsr.analysis.maps import OUTPUT, TokenMaps, outlier_ratio, relative_norms
from dsr.report.figures.given import FigureInput, choose_columns, is_denoiser, subject_of
from dsr.report.figures.style import BODY, FRAME, MAP, MUTED, NOTE, SMALL, grid, heading

_NORMS = (0.25, 8.0)
"""Range of the colours of norms, as multiples of the median."""
_CELL = (0.78, 0.44)
"""Width and height in inches of a cell of outlier ratios."""

_GAP, _NOTE_HEIGHT, _LINE = 0.07, 0.24, 0.12
"""Inches: space between panels, which are an inch wide, room for a note below one, each further line of it."""
_LABEL_CHARACTERS = 20
"""Row labels are wrapped after this many characters, between words."""

Map = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]
Quantity = Callable[[TokenMaps, tuple[int, int, int]], tuple[Map, str]]
"""Map and note of a file at the positions of an image, a time and a layer."""


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
    return _draw_maps(
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


def _draw_maps(rows: Sequence[MapRow], columns: Sequence[str], scale: Scale, *, title: str, subtitle: str) -> Figure:
    """Draw rows of panels under the headings of their ``columns``, images included."""
    wrapped = textwrap.TextWrapper(_LABEL_CHARACTERS, break_long_words=False, break_on_hyphens=False)
    below = _NOTE_HEIGHT + _LINE * max(note.count("\n") for row in rows for note in row.notes)
    figure, places = grid(len(rows), len(columns), gaps=(_GAP, below))
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
