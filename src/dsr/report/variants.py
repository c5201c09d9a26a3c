"""The same rows scored again: with other sampling seeds, and against other reference images."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dsr.errors import UserError
from dsr.files import read_json
from dsr.report.published import Published
from dsr.report.table import Entry

Lines = list[list[str]]


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


def read_fids(files: Mapping[Variant, Path]) -> dict[Variant, float]:
    """Read the FIDs; files that do not exist are left out."""
    return {variant: float(read_json(path)["fid"]) for variant, path in files.items() if path.exists()}


def seed_lines(fids: Mapping[Variant, float], published: Published | None) -> tuple[list[str], Lines]:
    """Return heading and lines: mean and sample standard deviation of the FID over two or more sampling seeds.

    A difference from the published value of more than one standard deviation is marked with a star.
    """
    groups: dict[tuple[Entry, str], list[float]] = {}
    for variant, fid in fids.items():
        groups.setdefault((variant.entry, variant.reference), []).append(fid)
    heading = ["Row", "Epochs", "Guidance", "Reference", "Seeds", "FID", "Published", "Difference"]
    lines = []
    for (entry, reference), values in groups.items():
        if len(values) < 2:
            continue
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        known = None
        if published is not None and reference == "validation":
            known = published.value(entry.row, entry.epoch, entry.setting, "fid")
        compared = ["", ""]
        if known is not None:
            mark = " *" if abs(mean - known) > deviation else ""
            compared = [f"{known:.2f}", f"{mean - known:+.2f}{mark}"]
        numbers = [str(len(values)), f"{mean:.2f} ± {deviation:.2f}", *compared]
        lines.append([entry.row, str(entry.epoch), entry.setting, reference, *numbers])
    return heading, lines


def reference_lines(fids: Mapping[Variant, float]) -> tuple[list[str], Lines]:
    """Return heading and lines: FID of the same images against every reference, where there is more than one."""
    references = list(dict.fromkeys(variant.reference for variant in fids))
    groups: dict[tuple[Entry, int], dict[str, float]] = {}
    for variant, fid in fids.items():
        groups.setdefault((variant.entry, variant.seed), {})[variant.reference] = fid
    lines = [
        [entry.row, str(entry.epoch), entry.setting, str(seed)]
        + [f"{values[name]:.2f}" if name in values else "" for name in references]
        for (entry, seed), values in groups.items()
        if len(values) > 1
    ]
    return ["Row", "Epochs", "Guidance", "Seed", *(f"FID, {name}" for name in references)], lines
