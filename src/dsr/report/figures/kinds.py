"""The kinds of figures by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from dsr.report.figures.averages import averages
from dsr.report.figures.fid import fid
from dsr.report.figures.given import FigureInput
from dsr.report.figures.maps import attention, components, norms, times
from dsr.report.figures.outliers import outliers
from dsr.report.figures.samples import samples
from dsr.report.figures.style import save, style

Kind = Literal["norms", "times", "components", "attention", "outliers", "samples", "fid", "averages"]

KINDS: Mapping[Kind, Callable[[FigureInput], Figure]] = {
    "norms": norms,
    "times": times,
    "components": components,
    "attention": attention,
    "outliers": outliers,
    "samples": samples,
    "fid": fid,
    "averages": averages,
}
"""Each draws the maps of the entries, but for `samples` (their samples), `fid` and `averages` (their metrics)."""


def draw(kind: Kind, given: FigureInput, png: Path, svg: Path) -> None:
    """Draw one figure and write it as PNG and as SVG."""
    with style():
        save(KINDS[kind](given), png, svg)
