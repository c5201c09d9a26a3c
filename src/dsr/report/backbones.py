"""The encoders side by side: what each costs, what it makes of images, and how well the rows on it do."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dsr.analysis.maps import TokenMaps, outlier_ratio
from dsr.base.files import write_text
from dsr.base.text import pipe_table
from dsr.config.load import Config
from dsr.report.comparison import expected
from dsr.report.entries import Entry
from dsr.report.render import fill, page


class Costs(NamedTuple):
    """What the plan says of a row and its encoder; None where it does not know."""

    parameters: float | None
    """Millions, of the encoder."""
    gflops: float | None
    """Of the encoder, for one image."""
    encoded: float | None
    """Images per second and GPU, to latents."""
    trained: float | None
    """The same in training."""
    hours: float | None
    """GPU-hours of training to the last epoch."""


def write(config: Config, frame: pd.DataFrame, gpu: str, files: tuple[Path, Path, Path, Path]) -> None:
    """Write the table of :func:`collect` as Markdown, CSV, HTML and LaTeX."""
    markdown_file, csv, html, latex_file = files
    table = pipe_table([*frame], frame.to_numpy().tolist(), [*frame][3:])
    text = fill("backbones.md.j2", config=config, table=table, gpu=gpu)
    write_text(markdown_file, text)
    write_text(csv, frame.to_csv(index=False))
    write_text(html, page(text))
    write_text(latex_file, frame.to_latex(index=False, escape=True, caption="Encoders side by side"))


def collect(config: Config, entries: tuple[Entry, ...], costs: Mapping[str, Costs]) -> pd.DataFrame:
    """Return a line a row, of entries of rows, and of encoders with reconstructions and maps; no empty columns."""
    encoders = {(one.encoder, one.ttr): one for one in entries if one.encoder}
    lines = []
    for one in entries:
        if not one.row:
            continue
        row, cost = config.rows[one.row], costs[one.row]
        of_encoder = encoders[row.encoder, row.ttr]
        published = expected(config, one.row, one.epoch).published
        lines.append(
            {
                "Encoder": row.encoder,
                "TTR": row.ttr,
                "Row": one.row,
                "Encoder (M)": _text(cost.parameters, 1),
                "GFLOPs": _text(cost.gflops, 1),
                "Encoded images/s": _text(cost.encoded, 0),
                "Trained images/s": _text(cost.trained, 0),
                "GPU-hours": _text(cost.hours, 0),
                "rFID": _text(of_encoder.scores.get("fid"), 2),
                "Outliers": _outliers(of_encoder, config.figures.outlier_multiple),
                f"FID, epoch {one.epoch}": _text(one.scores.get("fid"), 2),
                "FID, published": " and ".join(f"{fid:.2f}" for fid in published),
            }
        )
    frame: pd.DataFrame = pd.DataFrame(lines)
    known: pd.DataFrame = frame.loc[:, (frame != "").any()]
    return known


def _outliers(one: Entry, multiple: float) -> str:
    """Share of tokens after the encoder's last block that are outliers."""
    if one.maps is None or not one.maps.exists():
        return ""
    maps = TokenMaps.load(one.maps)
    return f"{np.mean(outlier_ratio(maps.norms[:, 0, -2], multiple)):.2%}"


def _text(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:,.{decimals}f}"
