"""The numbers that the paper publishes (arXiv 2605.05206), by row, epoch and guidance setting."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pandas as pd

from dsr.errors import UserError

METRICS = ("fid", "inception_score", "precision", "recall")
NUMBERS = ("params_millions", "gflops", *METRICS)
COLUMNS = ("table", "row", "label", "epochs", "setting", *NUMBERS, "source")
CHART = "chart"
"""Table of values that were read off a chart (+-0.05) and never enter Table 1."""


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

    def value(self, row: str, epoch: int, setting: str, quantity: str) -> float | None:
        """Return one published metric of a row at an epoch, from any table (they agree) but the chart."""
        frame = self._tables(row)
        return _first(frame[(frame["epochs"] == epoch) & (frame["setting"] == setting)][quantity])

    def constant(self, row: str, quantity: str) -> float | None:
        """Return a published quantity of the model itself (``params_millions`` or ``gflops``)."""
        return _first(self._tables(row)[quantity])

    def main(self) -> pd.DataFrame:
        """Return the lines of the paper's main table."""
        frame: pd.DataFrame = self.frame[self.frame["table"] == "main"]
        return frame

    def chart(self, row: str) -> list[tuple[int, float]]:
        """Return (epoch, FID) points read off the published chart (+-0.05)."""
        frame = self.frame[(self.frame["table"] == CHART) & (self.frame["row"] == row)].sort_values("epochs")
        return [(int(epoch), float(fid)) for epoch, fid in zip(frame["epochs"], frame["fid"], strict=True)]

    def _tables(self, row: str) -> pd.DataFrame:
        frame: pd.DataFrame = self.frame[(self.frame["table"] != CHART) & (self.frame["row"] == row)]
        return frame


def _first(values: pd.Series) -> float | None:
    known = values.dropna()
    return None if known.empty else float(known.iloc[0])
