"""The same rows scored again: with other sampling or training seeds, and against other reference images."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dsr.base.errors import UserError
from dsr.base.files import read_json
from dsr.report.published import Published
from dsr.report.specs import CHART, TableSpec
from dsr.report.table import GUIDED, UNGUIDED, Entry

Lines = list[list[str]]
FIRST_REFERENCE = "validation"
"""The reference that published values are compared with."""


class Variant(NamedTuple):
    """What one metrics file is about, seed and reference included."""

    entry: Entry
    reference: str
    seed: int

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Parse 'row:epoch:guidance:reference:seed'.

        Raises:
            UserError: if it is something else.
        """
        entry, _, rest = text.rpartition(":")
        entry, _, reference = entry.rpartition(":")
        if not (entry and reference and rest.isdigit()):
            raise UserError(f"'{text}' is not row:epoch:guidance:reference:seed")
        return cls(Entry.parse(entry), reference, int(rest))


class Supplement(NamedTuple):
    """A small table under the main one."""

    title: str
    note: str
    heading: list[str]
    lines: Lines
    words: int
    """Columns at the left that hold words; the others hold numbers."""


def read_fids(files: Mapping[Variant, Path]) -> dict[Variant, float]:
    """Read the FIDs; files that do not exist are left out."""
    return {variant: float(read_json(path)["fid"]) for variant, path in files.items() if path.exists()}


def supplements(
    spec: TableSpec, frame: pd.DataFrame, published: Published, fids: Mapping[Variant, float]
) -> list[Supplement]:
    """Return the tables of sampling seeds, training seeds and references, as far as there is more than one of each."""
    comparable = published if spec.published else None
    star = "A star marks a difference from the published value that exceeds it."
    heading, lines = seed_lines(spec, fids, comparable)
    spread = "Mean and sample standard deviation of FID over"
    note = f"{spread} sampling seeds of one training run (training seeds move FID more). {star}"
    found = [Supplement("Sampling seeds", note, heading, lines, 4)]
    heading, lines = training_lines(spec, frame)
    note = f"{spread} rows that differ in the recipe's seed only. {star}"
    found.append(Supplement("Training seeds", note, heading, lines, 3))
    heading, lines = reference_lines(fids)
    note = "FID of the same images against each reference; published values are compared with the first one only."
    found.append(Supplement("References", note, heading, lines, 3))
    return [supplement for supplement in found if supplement.lines]


def seed_lines(spec: TableSpec, fids: Mapping[Variant, float], published: Published | None) -> tuple[list[str], Lines]:
    """Return heading and lines: mean and sample standard deviation of the FID over two or more sampling seeds.

    A difference from the published value of more than one standard deviation is marked with a star.
    """
    rows = {row.id: row.published for row in spec.rows}
    lines = []
    for (entry, reference), values in _by_seed(fids).items():
        known = None
        if published is not None and reference == FIRST_REFERENCE:
            setting = UNGUIDED if entry.setting == UNGUIDED else GUIDED
            row, chart = rows.get(entry.row, entry.row), spec.published_list == CHART
            known = published.value(row, entry.epoch, setting, "fid", chart=chart)
        lines.append([entry.row, str(entry.epoch), entry.setting, reference, *_compared(values, known)])
    return ["Row", "Epochs", "Guidance", "Reference", "Seeds", "FID", "Published", "Difference"], lines


def training_lines(spec: TableSpec, frame: pd.DataFrame) -> tuple[list[str], Lines]:
    """Return heading and lines: mean and sample standard deviation of the FID over rows that repeat each other."""
    repeats = {row.id: row.repeats for row in spec.rows if row.repeats}
    measured = frame[(frame["status"] == "measured") & frame["row"].isin(list(repeats))]
    lines = []
    for keys, group in measured.groupby([measured["row"].map(repeats), "epoch", "setting"], sort=False):
        if len(group) > 1:
            _, epoch, setting = keys
            known = group["published_fid"].dropna() if spec.published else group["published_fid"].iloc[:0]
            numbers = _compared(group["measured_fid"].tolist(), None if known.empty else float(known.iloc[0]))
            lines.append([", ".join(group["row"]), str(epoch), str(setting), *numbers])
    return ["Rows", "Epochs", "Guidance", "Seeds", "FID", "Published", "Difference"], lines


def reference_lines(fids: Mapping[Variant, float]) -> tuple[list[str], Lines]:
    """Return heading and lines: FID of the same images against every reference, where there is more than one."""
    references = _references(fids)
    lines = [
        [entry.row, str(entry.epoch), entry.setting, str(seed)]
        + [f"{values[name]:.2f}" if name in values else "" for name in references]
        for (entry, seed), values in _by_reference(fids).items()
    ]
    return ["Row", "Epochs", "Guidance", "Seed", *(f"FID, {name}" for name in references)], lines


def with_variants(spec: TableSpec, frame: pd.DataFrame, fids: Mapping[Variant, float]) -> pd.DataFrame:
    """Return the table with more columns: FID over seeds (count, mean, deviation), and against further references."""
    columns = {}
    seeds = {entry: values for (entry, name), values in _by_seed(fids).items() if name == FIRST_REFERENCE}
    if seeds:
        columns["seeds"] = {entry: float(len(values)) for entry, values in seeds.items()}
        columns["fid_mean"] = {entry: statistics.mean(values) for entry, values in seeds.items()}
        columns["fid_deviation"] = {entry: statistics.stdev(values) for entry, values in seeds.items()}
    for name in _references(fids)[1:]:
        first = {variant.entry: fid for variant, fid in fids.items() if variant[1:] == (name, spec.seed)}
        columns[f"fid_{name}"] = first
    keys = zip(frame["row"], frame["epoch"], frame["setting"], strict=True)
    entries = [Entry(row, epoch, setting) for row, epoch, setting in keys]
    wider: pd.DataFrame = frame.copy()
    for name, values in columns.items():
        wider[name] = [values.get(entry) for entry in entries]
    return wider


def _by_seed(fids: Mapping[Variant, float]) -> dict[tuple[Entry, str], list[float]]:
    """FIDs of every entry against every reference, where there are two seeds or more."""
    groups: dict[tuple[Entry, str], list[float]] = {}
    for variant, fid in fids.items():
        groups.setdefault((variant.entry, variant.reference), []).append(fid)
    return {key: values for key, values in groups.items() if len(values) > 1}


def _by_reference(fids: Mapping[Variant, float]) -> dict[tuple[Entry, int], dict[str, float]]:
    """FIDs of every entry and seed by reference, where there are two references or more."""
    groups: dict[tuple[Entry, int], dict[str, float]] = {}
    for variant, fid in fids.items():
        groups.setdefault((variant.entry, variant.seed), {})[variant.reference] = fid
    return {key: values for key, values in groups.items() if len(values) > 1}


def _references(variants: Iterable[Variant]) -> list[str]:
    return list(dict.fromkeys(variant.reference for variant in variants))


def _compared(values: Sequence[float], known: float | None) -> list[str]:
    """Number of values, their mean and deviation, the published value and the difference from it."""
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    compared = ["", ""]
    if known is not None:
        mark = " *" if abs(mean - known) > deviation else ""
        compared = [f"{known:.2f}", f"{mean - known:+.2f}{mark}"]
    return [str(len(values)), f"{mean:.2f} ± {deviation:.2f}", *compared]
