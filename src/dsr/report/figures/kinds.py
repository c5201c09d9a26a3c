"""The kinds of figures by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from dsr.report.figures.averages import averages
from dsr.report.figures.fid import fid
from dsr.report.figures.maps import attention, components, norms, times
from dsr.report.figures.outliers import outliers
from dsr.report.figures.samples import samples
from dsr.report.figures.style import save, style
from dsr.report.specs import FigureSpec

KINDS: Mapping[str, Callable[[FigureSpec, Mapping[str, Path]], Figure]] = {
    "norms": norms,
    "times": times,
    "components": components,
    "attention": attention,
    "outliers": outliers,
    "samples": samples,
    "fid": fid,
    "averages": averages,
}
"""Each draws from input files by id: maps files, but for samples (samples files), fid and averages (metrics files)."""


def draw(kind: str, spec: FigureSpec, inputs: Mapping[str, Path], png: Path | None, svg: Path | None) -> None:
    """Draw one figure and write it in the formats asked for."""
    with style():
        save(KINDS[kind](spec, inputs), png, svg)
