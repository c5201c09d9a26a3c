"""The numbers that the paper publishes (arXiv 2605.05206), by row, epoch and guidance."""

from __future__ import annotations

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
        lines = self.lines(table)
        places = (
            (METRICS, self.frame[(self.frame["table"] == CHART) == (table == CHART)]),
            (COUNTED, self.lines(MAIN) if lines.empty else lines),
        )
        found: dict[str, float | None] = {}
        for names, frame in places:
            matching = frame[(frame["row"] == row) & (frame["epochs"] == epoch) & (frame["guidance"] == guidance)]
            for name in names:
                known = matching[name].dropna()
                found[name] = None if known.empty else float(known.iloc[0])
        return found

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
        return {int(epoch) for epoch in lines[lines["row"].isin(list(rows))]["epochs"]}

    def chart(self, row: str) -> list[tuple[int, float]]:
        """Return (epoch, FID) points read off the published chart (+-0.05)."""
        lines = self.lines(CHART)
        frame = lines[lines["row"] == row].sort_values("epochs")
        return [(int(epoch), float(fid)) for epoch, fid in zip(frame["epochs"], frame["fid"], strict=True)]
