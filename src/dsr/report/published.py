"""The numbers that the paper publishes (arXiv 2605.05206), by row, epoch and guidance."""

from collections.abc import Iterable
from importlib import resources

import pandas as pd

from dsr.report.entries import COUNTED, METRICS

MAIN, CHART = "main", "chart"
"""Names of the published lists behind Table 1 and behind FID against epochs; the latter was read off a chart."""


class Published:
    """Published values; a cell that the paper leaves empty is None."""

    def __init__(self) -> None:
        with (resources.files("dsr.report") / "published.csv").open(encoding="utf-8") as stream:
            self.frame = pd.read_csv(stream)

    def values(self, table: str, row: str, epoch: int, guidance: str) -> dict[str, float | None]:
        """Return what is published of a row at an epoch, by quantity.

        Metrics are those of any table (they agree), or of the chart. What is counted of the model itself is that of
        the table alone, or of the main one where ``table`` is not published.
        """
        frame = self.frame
        lines = frame[(frame["row"] == row) & (frame["epochs"] == epoch) & (frame["guidance"] == guidance)]
        scored = lines[(lines["table"] == CHART) == (table == CHART)]
        counted = lines[lines["table"] == (MAIN if self.lines(table).empty else table)]
        found = pd.concat([scored[[*METRICS]].max(), counted[[*COUNTED]].max()])
        return {str(name): None if pd.isna(value) else float(value) for name, value in found.items()}

    def lines(self, table: str) -> pd.DataFrame:
        """Return the lines of one published table ('main', CHART, ...), none if there is no such table."""
        frame: pd.DataFrame = self.frame[self.frame["table"] == table]
        return frame

    def label(self, row: str) -> str:
        """Return what the paper calls a row; empty if it has none of this name."""
        labels = self.frame[self.frame["row"] == row]["label"]
        return "" if labels.empty else str(labels.iloc[0])

    def epochs(self, table: str, rows: Iterable[str]) -> set[int]:
        """Return the epochs at which one published table has some of these rows."""
        lines = self.lines(table)
        return {*lines["epochs"][lines["row"].isin(list(rows))].tolist()}

    def chart(self, row: str) -> list[tuple[int, float]]:
        """Return (epoch, FID) points read off the published chart (+-0.05)."""
        lines = self.lines(CHART)
        points = lines[lines["row"] == row].sort_values("epochs")[["epochs", "fid"]]
        return list(points.itertuples(index=False, name=None))
