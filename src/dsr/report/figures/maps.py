"""Figures of token maps: norms, first principal component, attention received, outlier ratios."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from dsr.analysis.maps import OUTPUT, TokenMaps, outlier_ratio, relative_norms
from dsr.report.figures.common import BODY, FRAME, MUTED, NOTE, SMALL, FigureInput, grid, heading

_NORMS = (0.25, 8.0)
"""Range of the colours of norms, as multiples of the median."""
_SHARES = 6
"""Blocks that are shown where none are asked for."""
_CELL = (0.78, 0.44)
"""Width and height in inches of a cell of outlier ratios."""
_GAP, _NOTE_HEIGHT, _LINE = 0.07, 0.24, 0.12
"""Inches: space between panels, which are an inch wide, room for a note below one, each further line of it."""
_LABEL_CHARACTERS = 20
"""Row labels are wrapped after this many characters, between words."""

Map = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Quantity = Callable[[TokenMaps, tuple[int, int, int]], tuple[Map, str]]
"""Map (S, S) and note of a file at the positions of an image, a time and a layer."""


@dataclass(frozen=True)
class Scale:
    """How values become colours."""

    label: str
    norm: Normalize | None = None
    """One scale for all maps; None scales every map to its own range."""
    ticks: Sequence[float] = ()
    """Labelled values of the colour bar."""
    outlier: float | None = None
    """A value to point out on the colour bar; values beyond the ends then have the colours of the ends."""


@dataclass(frozen=True)
class Columns:
    """Which layer of each file is in which column."""

    headings: list[str]
    layers: dict[str, list[str]]
    """Layer names of every file, one per column."""
    same: bool
    """Whether a column is the same layer of every file; otherwise it is the same share of the depth."""

    def note(self, layer: str) -> str:
        """Say which block a panel shows where the heading does not."""
        return "" if self.same or layer == OUTPUT else f"block {layer}\n"


def choose_columns(given: FigureInput, files: Mapping[str, TokenMaps], output: bool = True) -> Columns:
    """Choose `figures.layers` if all are denoisers that have them, else equal shares of every depth; and the output."""
    known = {name: [layer for layer in file.layers.tolist() if layer != OUTPUT] for name, file in files.items()}
    chosen = [*map(str, given.config.figures.layers or ())] if all(map(_is_denoiser, files.values())) else []
    if not chosen or any(layer not in blocks for blocks in known.values() for layer in chosen):
        count = min([_SHARES, *map(len, known.values())])
        layers = {
            name: [blocks[math.ceil(number * len(blocks) / count) - 1] for number in range(1, count + 1)]
            for name, blocks in known.items()
        }
    else:
        layers = dict.fromkeys(files, chosen)
    first, *others = layers.values()
    same = all(other == first for other in others)
    shares = [f"depth {number}/{len(first)}" for number in range(1, len(first))]
    headings = [f"block {layer}" for layer in first] if same else [*shares, "last block"]
    last = [OUTPUT] if output else []
    return Columns([*headings, *last], {name: [*blocks, *last] for name, blocks in layers.items()}, same)


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
    images = f"{len(first.indices)} validation image{'s' if len(first.indices) > 1 else ''}"
    text = f"share of tokens whose norm exceeds {multiple:g}× the median of their map"
    width = len(columns.headings) * _CELL[0]
    figure, ((axes,),) = grid(1, 1, (width, len(files) * _CELL[1]))
    heading(axes, f"Outlier tokens in {_subject(first)}", _subtitle(given, first, images, text), width, above=28)
    norm = Normalize(0.0, max(float(ratios.max()), 0.01))
    axes.pcolormesh(ratios, norm=norm, edgecolors="white", linewidth=1.5)
    axes.invert_yaxis()
    axes.set_xticks(np.arange(len(columns.headings)) + 0.5, labels=columns.headings)
    axes.set_yticks(np.arange(len(files)) + 0.5, labels=list(files), fontsize=BODY)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=mpl.rcParams["text.color"])
    axes.spines[:].set_visible(False)
    for row, layers in enumerate(columns.layers.values()):
        for column, layer in enumerate(layers):
            value = ratios[row, column]
            text = "\n".join([f"{value:.1%}", *columns.note(layer).splitlines()])
            shade = "black" if norm(value) > 0.6 else "white"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=shade, fontsize=SMALL)
    return figure


def _draw(
    given: FigureInput,
    title: str,
    text: str,
    quantity: Quantity,
    scale: Scale | Callable[[list[Map]], Scale],
    *,
    every_time: bool = False,
    output: bool = True,
) -> Figure:
    """Draw a row of panels for every file, or for every t of it; with the network's output or without."""
    files = given.maps()
    columns = choose_columns(given, files, output)
    first = next(iter(files.values()))
    rows = [
        (name, file, given.image_position(file), time)
        for name, file in files.items()
        for time in (range(len(file.times)) if every_time else [given.time_position(file)])
    ]
    panels = [
        [(columns.note(layer), *quantity(file, (image, time, file.layer(layer)))) for layer in columns.layers[name]]
        for name, file, image, time in rows
    ]
    if not isinstance(scale, Scale):
        scale = scale([values for line in panels for _, values, _ in line])
    below = _NOTE_HEIGHT + _LINE * max((block + note).count("\n") for line in panels for block, _, note in line)
    headings = ["image", *columns.headings, "prediction" if _is_denoiser(first) else "decoded"]
    figure, places = grid(len(rows), len(headings), gaps=(_GAP, below))
    which = f"validation image {first.indices[given.image_position(first)]}"
    subtitle = _subtitle(given, first, which, text, every_time=every_time)
    heading(places[0, 0], title.format(subject=_subject(first)), subtitle, len(headings), above=28)
    for axes, column in zip(places[0], headings, strict=True):
        axes.set_title(column, fontsize=SMALL, pad=4)
    for axes in places.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=FRAME, linewidth=0.6)
    wrapped = textwrap.TextWrapper(_LABEL_CHARACTERS, break_long_words=False, break_on_hyphens=False)
    for (left, *middle, right), (name, file, image, time), line in zip(places, rows, panels, strict=True):
        label = wrapped.fill(f"t = {file.times[time]:g}" if every_time else name)
        left.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8, linespacing=1.3)
        left.imshow(file.images[image])
        right.imshow(file.decoded[image, time])
        for axes, (block, values, note) in zip(middle, line, strict=True):
            axes.imshow(values, norm=scale.norm, interpolation="none")
            axes.set_xlabel(block + note, fontsize=NOTE, color=MUTED, labelpad=2.5)
    _colour_bar(figure, scale, min(3, len(rows)) * (1 + below) - below)
    return figure


def _subtitle(given: FigureInput, file: TokenMaps, images: str, text: str, *, every_time: bool = False) -> str:
    at = [f"t = {file.times[given.time_position(file)]:g}"] if _is_denoiser(file) and not every_time else []
    return " · ".join([*given.subtitle, images, *at, text])


def _is_denoiser(file: TokenMaps) -> bool:
    """Whether the maps are of a denoiser; an encoder sees only t = 0."""
    return bool(file.times.max() > 0)


def _subject(file: TokenMaps) -> str:
    return "the denoiser" if _is_denoiser(file) else "the encoder"


def _norm(given: FigureInput) -> tuple[str, Quantity, Scale]:
    """What is said of norms, and how they are shown: in the same colours in all figures, so that they compare."""
    multiple, (low, high) = given.config.figures.outlier_multiple, _NORMS

    def relative(file: TokenMaps, at: tuple[int, int, int]) -> tuple[Map, str]:
        multiples = relative_norms(file.norms[at])
        return multiples, f"max {multiples.max():.1f}×, {outlier_ratio(file.norms[at], multiple):.1%}"

    norm = LogNorm(low, max(high, multiple), clip=True)
    text = "norm as a multiple of the map's median; below each map its largest value and the share of outliers"
    return f"{text} (above {multiple:g}×)", relative, Scale("norm / median", norm, (low, 0.5, 1, 2, 4, high), multiple)


def _attention_scale(maps: list[Map]) -> Scale:
    values = np.concatenate([values.ravel() for values in maps]).astype(np.float64)
    low = max(np.nanmin(values), 0.05, np.nanmax(values) / 1000)
    high = max(np.nanmax(values), 2.0)
    steps = [digit * 10.0**power for power in range(-3, 5) for digit in (1, 2, 5)]
    ticks = [step for step in steps if low <= step <= high]
    return Scale("attention received (1 = equal shares)", LogNorm(low, high, clip=True), ticks)


def _colour_bar(figure: Figure, scale: Scale, length: float) -> None:
    """Draw the bar, so many inches long, at the right of the first rows."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((1 + 0.17 / width, 1 - length / height, 0.14 / width, length / height))
    extend = "neither" if scale.outlier is None else "both"
    bar = figure.colorbar(ScalarMappable(scale.norm or Normalize(0, 1)), cax=axes, extend=extend)
    axes.spines["outline"].set(color=FRAME, linewidth=0.6)
    bar.ax.minorticks_off()
    ticks = {tick: f"{tick:g}" for tick in scale.ticks}
    if scale.norm is None:
        ticks = {0: "min", 1: "max"}
    if mark := scale.outlier:
        ticks = {tick: label for tick, label in ticks.items() if abs(np.log(tick / mark)) > 0.25}
        ticks[mark] = f"{mark:g} (outlier)"
        bar.ax.axhline(mark, color="white", linewidth=1.2)
    bar.set_ticks([*ticks], labels=[*ticks.values()])
    bar.ax.tick_params(labelsize=NOTE, length=2, color=FRAME)
    bar.set_label(scale.label, fontsize=NOTE, color=MUTED, labelpad=4)
