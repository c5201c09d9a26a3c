"""Outlier ratio per row and layer, as a heat map with numbers."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from dsr.analysis.maps import OUTPUT, TokenMaps
from dsr.analysis.outliers import outlier_ratio
from dsr.report.figures.given import FigureInput, choose_columns, is_denoiser, subject_of
from dsr.report.figures.style import BODY, EDGE, MAP, SMALL, heading, heading_height, text_width

_WIDTH, _HEIGHT, _HEADER = 0.78, 0.44, 0.28
"""Inches: a cell, and the room for column headings."""


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
    left = EDGE + text_width(labels, BODY) + 0.12
    width = max(left + len(columns.headings) * _WIDTH + EDGE, 5.0)
    top = heading_height(subtitle, width) + _HEADER
    height = top + len(files) * _HEIGHT + EDGE
    figure = Figure(figsize=(width, height))
    heading(figure, f"Outlier tokens in {subject_of(first)}", subtitle)
    box = (left / width, EDGE / height, len(columns.headings) * _WIDTH / width, len(files) * _HEIGHT / height)
    axes = figure.add_axes(box)
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
