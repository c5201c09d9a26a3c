"""Outlier ratio per row and layer, as a heat map with numbers."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from dsr.analysis.maps import OUTPUT, TokenMaps, outlier_ratio
from dsr.report.figures.given import FigureInput, choose_columns, is_denoiser, subject_of
from dsr.report.figures.style import BODY, MAP, SMALL, grid, heading

_WIDTH, _HEIGHT = 0.78, 0.44
"""Inches of a cell."""


def outliers(given: FigureInput) -> Figure:
    """Draw the share of outlier tokens of every file (rows) after every chosen layer (columns), over all images."""
    files = given.maps()
    columns = choose_columns(given, files)
    ratios = np.array([[_ratio(given, files[name], layer) for layer in columns.layers[name]] for name in files])
    labels = list(files)
    first = next(iter(files.values()))
    parts = [*given.subtitle, f"{len(first.indices)} validation image{'s' if len(first.indices) > 1 else ''}"]
    if is_denoiser(first):
        parts.append(f"t = {first.times[given.time_position(first)]:g}")
    multiple = given.config.figures.outlier_multiple
    subtitle = " · ".join([*parts, f"share of tokens whose norm exceeds {multiple:g}× the median of their map"])
    width = len(columns.headings) * _WIDTH
    figure, ((axes,),) = grid(1, 1, (width, len(files) * _HEIGHT))
    heading(axes, f"Outlier tokens in {subject_of(first)}", subtitle, width, above=28)
    norm = Normalize(0.0, max(float(ratios.max()), 0.01))
    axes.pcolormesh(ratios, cmap=MAP, norm=norm, edgecolors="white", linewidth=1.5)
    axes.invert_yaxis()
    axes.set_xticks(np.arange(len(columns.headings)) + 0.5, labels=columns.headings, fontsize=SMALL)
    axes.set_yticks(np.arange(len(labels)) + 0.5, labels=labels, fontsize=BODY)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=mpl.rcParams["text.color"])
    axes.spines[:].set_visible(False)
    for row, column in np.ndindex(ratios.shape):
        shade = "black" if norm(ratios[row, column]) > 0.6 else "white"
        layer = [*columns.layers.values()][row][column]
        text = f"{ratios[row, column]:.1%}" + ("" if columns.same or layer == OUTPUT else f"\nblock {layer}")
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=shade, fontsize=SMALL)
    return figure


def _ratio(given: FigureInput, file: TokenMaps, layer: str) -> float:
    """Mean over images."""
    norms = file.norms[:, given.time_position(file), file.layer(layer)]
    return float(outlier_ratio(norms, given.config.figures.outlier_multiple).mean())
