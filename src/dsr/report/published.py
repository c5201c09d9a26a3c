"""The numbers that the paper publishes (arXiv 2605.05206), and whether a row is the experiment that they are of.

The workflow asks too, in an environment without pandas.
"""

import csv
import functools
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import yaml

from dsr.analysis.track import Expected
from dsr.config.load import Config
from dsr.config.specs import differing_keys
from dsr.report.entries import COUNTED, METRICS, QUANTITIES, UNGUIDED

MAIN, CHART = "main", "chart"
"""Names of the published lists behind Table 1 and behind FID against epochs; the latter was read off a chart."""

Line = dict[str, Any]
"""A line of `published.csv`, by column."""


class Published:
    """Published values; a cell that the paper leaves empty is None."""

    def __init__(self) -> None:
        with (resources.files("dsr.report") / "published.csv").open(encoding="utf-8") as stream:
            self.all: list[Line] = [*csv.DictReader(stream)]
        for line in self.all:
            line["epochs"] = int(line["epochs"])
            line |= {name: float(line[name]) if line[name] else None for name in QUANTITIES}

    def of(self, row: str, epoch: int, guidance: str) -> list[Line]:
        """Return what all lists say of a row at an epoch."""
        wanted = (row, epoch, guidance)
        return [line for line in self.all if (line["row"], line["epochs"], line["guidance"]) == wanted]

    def lines(self, table: str) -> list[Line]:
        """Return the lines of one published table ('main', CHART, ...), none if there is no such table."""
        return [line for line in self.all if line["table"] == table]

    def values(self, table: str, row: str, epoch: int, guidance: str) -> dict[str, float | None]:
        """Return what is published of a row at an epoch, by quantity.

        Metrics are those of any table (they agree), or of the chart. What is counted of the model itself is that of
        the table alone, or of the main one where ``table`` is not published.
        """
        lines, counting = self.of(row, epoch, guidance), table if self.lines(table) else MAIN
        scored = [line for line in lines if (line["table"] == CHART) == (table == CHART)]
        counted = [line for line in lines if line["table"] == counting]
        return {
            name: max((line[name] for line in found if line[name] is not None), default=None)
            for names, found in ((METRICS, scored), (COUNTED, counted))
            for name in names
        }

    def label(self, row: str) -> str:
        """Return what the paper calls a row; empty if it has none of this name."""
        return next((line["label"] for line in self.all if line["row"] == row), "")

    def epochs(self, table: str, rows: Iterable[str]) -> set[int]:
        """Return the epochs at which one published table has some of these rows."""
        some = {*rows}
        return {line["epochs"] for line in self.lines(table) if line["row"] in some}

    def chart(self, row: str) -> list[tuple[int, float]]:
        """Return (epoch, FID) points read off the published chart (+-0.05)."""
        return sorted((line["epochs"], line["fid"]) for line in self.lines(CHART) if line["row"] == row)


def departures(config: Config, row: str) -> list[str]:
    """Say in what a row is not the experiment whose numbers the paper publishes, as 'key: the paper's -> its own'.

    Of a row that the configuration lacks only what it would share with the others is compared; of one with fetched
    weights, not the recipe.
    """
    own = config.model_dump(mode="json")
    paper = {name: part for name, part in _paper().items() if isinstance(part, Mapping) and name != "rows"}
    differences = differing_keys(paper, _like(paper, own))
    entry = own["rows"].get(row)
    if entry is None:
        return differences
    recipe = own["recipes"].get(entry["recipe"])
    entry |= {"encoder": own["encoders"][entry["encoder"]], "denoiser": own["denoisers"][entry["denoiser"]]}
    entry |= {"recipe": {**recipe, "ema": recipe["ema"][0]} if recipe else None}
    name = entry["compare_with"] or row
    wanted = _paper()["rows"].get(name)
    if wanted is None:
        return [*differences, f"rows: {name} is none of the paper's"]
    wanted = {key: value for key, value in wanted.items() if entry[key] is not None}
    return differences + differing_keys(wanted, _like(wanted, entry), f"rows.{row}.")


def expected(config: Config, row: str, epoch: int) -> Expected:
    """Return what is published of a row at an epoch, without guidance, if the row is the paper's experiment."""
    if differences := departures(config, row):
        more = f"; and {len(differences) - 2} more" if len(differences) > 2 else ""
        return Expected(incomparable="; ".join(differences[:2]) + more)
    known = config.rows.get(row)
    name = (known.compare_with if known else None) or row
    published = tuple(sorted({line["fid"] for line in Published().of(name, epoch, UNGUIDED)}))
    return Expected(published=published, incomparable="" if published else f"no FID is published at epoch {epoch}")


@functools.cache
def _paper() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((resources.files("dsr.report") / "paper.yaml").read_text(encoding="utf-8"))
    return content


def _like(pattern: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values whose keys the pattern has, at every depth."""
    return {
        key: _like(part, values[key]) if isinstance(part, Mapping) else values.get(key) for key, part in pattern.items()
    }
