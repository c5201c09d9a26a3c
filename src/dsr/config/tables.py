"""Which rows make which table, besides the main one."""

from __future__ import annotations

import csv
from importlib import resources
from pathlib import Path

import yaml

from dsr.config.base import Ascending, ConfigurationError, Distinct, Positive, Section


class Table(Section):
    """A table of its own, `<results>/tables/{id}.md`: published, measured and the difference, without guidance."""

    title: str
    """Heading."""
    rows: Distinct[str]
    """Rows in order, by id. One that only `overlay` has is shown as not run, with the command that runs it; one that
    neither has as not reproduced."""
    epochs: Ascending[Positive] | None = None
    """Epochs to show; null is those of `evaluation.epochs` and of the published values."""
    chart: bool = False
    """Compare with the FIDs read off the published chart instead of those of the published tables."""
    overlay: str | None = None
    """Configuration file that has the rows which this one lacks; it becomes part of their command."""
    note: str | None = None
    """What a reader has to know besides."""


def published_rows() -> set[str]:
    """Names of the rows of which the paper publishes numbers."""
    text = (resources.files("dsr.report") / "published.csv").read_text(encoding="utf-8")
    return {line["row"] for line in csv.DictReader(text.splitlines())}


def overlay_rows(table: str, overlay: Path) -> list[str]:
    """Return the names of the rows that the overlay of a table has.

    Raises:
        ConfigurationError: if there is no such file, or it is not a configuration with `rows`.
    """
    key = f"tables.{table}.overlay"
    if not overlay.is_file():
        raise ConfigurationError(f"{key}: there is no file {overlay}; give its path from the folder of the Snakefile")
    try:
        content = yaml.safe_load(overlay.read_text(encoding="utf-8"))
        return [*content["rows"]]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise ConfigurationError(f"{key}: {overlay} is not a configuration file with a section `rows`") from None
