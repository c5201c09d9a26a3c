"""The numbers that the paper publishes (arXiv 2605.05206), by row, epoch and guidance setting."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import pandas as pd

from dsr.base.errors import UserError
from dsr.report.specs import CHART, MAIN

METRICS = ("fid", "inception_score", "precision", "recall")
NUMBERS = ("params_millions", "gflops", *METRICS)
COLUMNS = ("table", "row", "label", "epochs", "setting", *NUMBERS, "source")


class Published:
    """Published values; a cell that the paper leaves empty is None."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame

    @classmethod
    def read(cls, path: Path | None = None) -> Published:
        """Read ``path``, or the list that comes with the package.

        Raises:
            UserError: if a column is missing.
        """
        if path is None:
            with resources.as_file(resources.files("dsr.report") / "published.csv") as packaged:
                return cls.read(packaged)
        frame = pd.read_csv(path)
        missing = [column for column in COLUMNS if column not in frame]
        if missing:
            raise UserError(f"{path}: columns {', '.join(missing)} are missing; see dsr/report/published.csv")
        return cls(frame)

    def value(self, row: str, epoch: int, setting: str, quantity: str, *, chart: bool = False) -> float | None:
        """Return one published metric of a row at an epoch: from any table (they agree), or from the chart."""
        frame = self.frame[(self.frame["table"] == CHART) == chart]
        return _first(_of(frame, row, epoch, setting)[quantity])

    def constant(self, table: str, row: str, epoch: int, setting: str, quantity: str) -> float | None:
        """Return what a line of one published table says of the model itself (``params_millions`` or ``gflops``).

        A table that is not published has the lines of the main one.
        """
        lines = self.lines(table)
        lines = self.lines(MAIN) if lines.empty else lines
        return _first(_of(lines, row, epoch, setting)[quantity])

    def lines(self, table: str) -> pd.DataFrame:
        """Return the lines of one published table ('main', CHART, ...), none if there is no such table."""
        frame: pd.DataFrame = self.frame[self.frame["table"] == table]
        return frame

    def label(self, row: str) -> str:
        """Return what the paper calls a row; empty if it has none of this name."""
        labels = self.frame[self.frame["row"] == row]["label"]
        return "" if labels.empty else str(labels.iloc[0])

    def epochs(self, table: str, rows: Iterable[str]) -> list[int]:
        """Return the epochs at which one published table has some of these rows."""
        lines = self.lines(table)
        return sorted({int(epoch) for epoch in lines[lines["row"].isin(list(rows))]["epochs"]})

    def chart(self, row: str) -> list[tuple[int, float]]:
        """Return (epoch, FID) points read off the published chart (+-0.05)."""
        lines = self.lines(CHART)
        frame = lines[lines["row"] == row].sort_values("epochs")
        return [(int(epoch), float(fid)) for epoch, fid in zip(frame["epochs"], frame["fid"], strict=True)]


def _of(lines: pd.DataFrame, row: str, epoch: int, setting: str) -> pd.DataFrame:
    found: pd.DataFrame = lines[(lines["row"] == row) & (lines["epochs"] == epoch) & (lines["setting"] == setting)]
    return found


def _first(values: pd.Series) -> float | None:
    known = values.dropna()
    return None if known.empty else float(known.iloc[0])
