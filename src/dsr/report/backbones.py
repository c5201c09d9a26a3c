"""The encoders side by side: what each costs, what it makes of images, and how well the rows on it do."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dsr.analysis.maps import TokenMaps, outlier_ratio
from dsr.config.load import Config
from dsr.report.entries import Entry
from dsr.report.published import expected
from dsr.report.render import TableFiles, fill, latex_table, pipe


def write(config: Config, frame: pd.DataFrame, gpu: str, files: TableFiles) -> None:
    """Write the table of :func:`collect` in every format."""
    text = fill("backbones.md.j2", config=config, table=pipe(frame), gpu=gpu)
    files.write(text, frame, latex_table(frame, "Encoders side by side"))


def collect(config: Config, entries: tuple[Entry, ...], costs: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Return a line a row, of entries of rows, and of encoders with reconstructions and maps; no empty columns.

    ``costs`` are further cells of every row.
    """
    encoders = {(one.encoder, one.ttr): one for one in entries if one.encoder}
    lines = []
    for one in entries:
        if not one.row:
            continue
        row = config.rows[one.row]
        of_encoder = encoders[row.encoder, row.ttr]
        published = expected(config, one.row, one.epoch).published
        lines.append(
            {
                "Encoder": row.encoder,
                "TTR": row.ttr,
                "Row": one.row,
                **costs[one.row],
                "rFID": number(of_encoder.scores.get("fid"), 2),
                "Outliers": _outliers(of_encoder, config.figures.outlier_multiple),
                f"FID, epoch {one.epoch}": number(one.scores.get("fid"), 2),
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


def number(value: float | None, decimals: int) -> str:
    """Write a number; nothing where it is not known."""
    return "" if value is None else f"{value:,.{decimals}f}"
