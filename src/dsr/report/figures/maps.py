"""Figures of token maps: norms, first principal component, attention received; rows compared, or noise levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from dsr.analysis.maps import OUTPUT, TokenMaps
from dsr.analysis.outliers import outlier_ratio, relative_norms
from dsr.report.figures.given import FigureInput, Files, choose_columns, is_denoiser, subject_of
from dsr.report.figures.panels import Map, MapRow, Scale, draw_maps

_NORMS = (0.25, 8.0)
"""Range of the colours of norms, as multiples of the median."""

Quantity = Callable[[TokenMaps, int, int, int], tuple[Map, str]]
"""Map and note of (file, image, time, layer) positions."""


def norms(given: FigureInput) -> Figure:
    """Compare token norms of several files at one t."""
    rows, columns, files = _compare(given, _norm(given))
    return draw_maps(
        rows,
        columns,
        _norm_scale(given),
        title="Token norms" + _where(files),
        subtitle=_subtitle(given, files, _norm_text(given)),
        **_heads(files),
    )


def times(given: FigureInput) -> Figure:
    """Show token norms at every t, of one file or of several."""
    files = given.maps()
    columns = choose_columns(given, files)
    rows = []
    for name, file in files.items():
        label = "" if len(files) == 1 else f"{name}, "
        for position, time in enumerate(file.times):
            shown = _Shown(file, given.image_position(file), position, columns.layers[name], not columns.same)
            rows.append(_row(shown, f"{label}t = {time:g}", _norm(given)))
    owner = f" of {next(iter(files))}" if len(files) == 1 else ""
    return draw_maps(
        rows,
        columns.headings,
        _norm_scale(given),
        title=f"Token norms{owner} across noise levels",
        subtitle=_subtitle(given, files, f"t = 1 is noise; {_norm_text(given)}", timed=False),
        **_heads(files),
    )


def components(given: FigureInput) -> Figure:
    """Compare the first principal component of several files at one t."""

    def component(file: TokenMaps, image: int, time: int, layer: int) -> tuple[Map, str]:
        return file.components[image, time, layer], f"{file.explained[image, time, layer]:.0%} of variance"

    rows, columns, files = _compare(given, component)
    return draw_maps(
        rows,
        columns,
        Scale("projection (each map on its own scale)"),
        title="First principal component of the tokens" + _where(files),
        subtitle=_subtitle(given, files, "signed so that the largest value is positive"),
        **_heads(files),
    )


def attention(given: FigureInput) -> Figure:
    """Compare the attention that every token receives, at one t."""

    def received(file: TokenMaps, image: int, time: int, layer: int) -> tuple[Map, str]:
        shares, registers = file.attention[image, time, layer], file.register_attention[image, time, layer]
        count = int(np.isfinite(file.register_norms[image, time, layer]).sum())
        relative = shares * (shares.size + count)
        return relative, f"max {relative.max():.1f}×" + (f"\nregisters {registers:.0%}" if count else "")

    rows, columns, files = _compare(given, received, output=False)
    values = _values(rows)
    low, high = max(values.min(), 0.05, values.max() / 1000), max(values.max(), 2.0)
    return draw_maps(
        rows,
        columns,
        Scale("attention received (1 = equal shares)", LogNorm(low, high, clip=True), _ticks(low, high)),
        title="Attention received" + _where(files),
        subtitle=_subtitle(
            given,
            files,
            "mean over heads and queries; below each map the largest value and what all registers receive together",
        ),
        **_heads(files),
    )


@dataclass(frozen=True)
class _Shown:
    """What one row of panels shows of a file."""

    file: TokenMaps
    image: int
    time: int
    layers: Sequence[str]
    named: bool
    """Whether notes say which block it is."""


def _compare(
    given: FigureInput, quantity: Quantity, output: bool = True
) -> tuple[list[MapRow], list[str], dict[str, TokenMaps]]:
    files = given.maps()
    columns = choose_columns(given, files)
    kept = [place for place, heading in enumerate(columns.headings) if output or heading != OUTPUT]
    rows = []
    for name, file in files.items():
        layers = [columns.layers[name][place] for place in kept]
        shown = _Shown(file, given.image_position(file), given.time_position(file), layers, not columns.same)
        rows.append(_row(shown, name, quantity))
    return rows, [columns.headings[place] for place in kept], files


def _row(shown: _Shown, label: str, quantity: Quantity) -> MapRow:
    """Make a row of panels."""
    file = shown.file
    maps, notes = [], []
    for layer in shown.layers:
        values, note = quantity(file, shown.image, shown.time, file.layer(layer))
        maps.append(values)
        notes.append(f"block {layer}\n{note}" if shown.named and layer != OUTPUT else note)
    return MapRow(
        label=label,
        maps=maps,
        notes=notes,
        before=file.images[shown.image],
        after=file.decoded[shown.image, shown.time] if file.decoded.size else None,
    )


def _norm(given: FigureInput) -> Quantity:
    def relative(file: TokenMaps, image: int, time: int, layer: int) -> tuple[Map, str]:
        values = file.norms[image, time, layer]
        multiples = relative_norms(values)
        return (
            multiples,
            f"max {multiples.max():.1f}×, {outlier_ratio(values, given.config.figures.outlier_multiple):.1%}",
        )

    return relative


def _norm_text(given: FigureInput) -> str:
    return (
        "norm as a multiple of the map's median; below each map its largest value and the share of outliers "
        f"(above {given.config.figures.outlier_multiple:g}×)"
    )


def _norm_scale(given: FigureInput) -> Scale:
    """The same in all figures, so that colours can be compared between them."""
    low, high = _NORMS
    norm = LogNorm(low, max(high, given.config.figures.outlier_multiple), clip=True)
    return Scale(
        "norm / median",
        norm,
        (low, 0.5, 1, 2, 4, high),
        mark=(given.config.figures.outlier_multiple, "outlier"),
        extend="both",
    )


def _ticks(low: float, high: float) -> list[float]:
    steps = [digit * 10.0**power for power in range(-3, 5) for digit in (1, 2, 5)]
    return [step for step in steps if low <= step <= high]


def _values(rows: Sequence[MapRow]) -> npt.NDArray[np.float64]:
    """All finite values."""
    values = np.concatenate([values.ravel() for row in rows for values in row.maps])
    return np.asarray(values[np.isfinite(values)], np.float64)


def _where(files: Files) -> str:
    return f" in {subject_of(next(iter(files.values())))}"


def _heads(files: Files) -> dict[str, str]:
    name = "prediction" if is_denoiser(next(iter(files.values()))) else "decoded"
    return {"before": "image", "after": name if any(file.decoded.size for file in files.values()) else ""}


def _subtitle(given: FigureInput, files: Files, text: str, timed: bool = True) -> str:
    first = next(iter(files.values()))
    parts = [*given.subtitle, f"validation image {first.indices[given.image_position(first)]}"]
    if timed and is_denoiser(first):
        parts.append(f"t = {first.times[given.time_position(first)]:g}")
    return " · ".join([*parts, text])
