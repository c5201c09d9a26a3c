"""Table 1 as data: every row at every epoch, published, measured and the difference (pandas, no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dsr.errors import UserError
from dsr.files import read_json
from dsr.report.published import METRICS, Published
from dsr.report.specs import TableRow, TableSpec

QUANTITIES = (*METRICS, "params_millions", "gflops")
"""Quantities that have a published, a measured and a difference column."""
EXTRA = ("sfid", "precision_f32", "recall_f32")
"""Measured quantities without a published counterpart."""
UNGUIDED, GUIDED = "unguided", "guided"


class Entry(NamedTuple):
    """What one metrics file is about."""

    row: str
    epoch: int
    setting: str

    @classmethod
    def parse(cls, text: str) -> Entry:
        """Parse 'row:epoch' (unguided) or 'row:epoch:setting'.

        Raises:
            UserError: if it is neither.
        """
        row, epoch, setting = [*text.split(":"), UNGUIDED][:3] if text.count(":") in (1, 2) else ("", "", "")
        if not (row and setting and epoch.isdigit()):
            raise UserError(f"'{text}' is not row:epoch or row:epoch:setting")
        return cls(row, int(epoch), setting)


def collect(
    spec: TableSpec, metrics: Mapping[Entry, Path], costs: Mapping[str, Path], published: Published
) -> pd.DataFrame:
    """Return one line per row, epoch and guidance setting with a metrics path or a comparable published value.

    A metrics file that does not exist leaves the measured cells empty, with status 'not run' and the command that
    makes it. Costs are read where they exist.

    Raises:
        UserError: if a path belongs to no row, epoch or setting of the table, or a metrics file lacks a key.
    """
    _check_known(spec, metrics)
    lines = []
    for row in spec.rows:
        cost = read_json(costs[row.id]) if row.id in costs and costs[row.id].exists() else {}
        for epoch in spec.epochs:
            for setting, guidance in spec.settings.items():
                entry = Entry(row.id, epoch, setting)
                counterpart = GUIDED if guidance.scale > 1 else UNGUIDED
                known = {name: published.value(row.id, epoch, counterpart, name) for name in METRICS}
                comparable = spec.published and any(value is not None for value in known.values())
                if entry not in metrics and not comparable:
                    continue
                known |= {name: published.constant(row.id, name) for name in ("params_millions", "gflops")}
                lines.append(_line(spec, row, entry, metrics.get(entry), cost, known))
    frame: pd.DataFrame = pd.DataFrame(lines, columns=_columns())
    return frame


def _line(
    spec: TableSpec,
    row: TableRow,
    entry: Entry,
    path: Path | None,
    cost: Mapping[str, Any],
    published: Mapping[str, float | None],
) -> dict[str, Any]:
    exists = path is not None and path.exists()
    found = _read_metrics(path) if path is not None and exists else {}
    measured = {**{name: found.get(name) for name in (*METRICS, *EXTRA)}, **_cost_values(cost)}
    line: dict[str, Any] = {**entry._asdict(), "status": "measured" if exists else "not run"}
    line["run"] = f"{spec.command} {path}" if path is not None and not exists else ""
    for name in QUANTITIES:
        line[f"published_{name}"] = published[name]
        line[f"measured_{name}"] = measured.get(name)
        line[f"difference_{name}"] = _difference(measured.get(name), published[name])
    for name in EXTRA:
        line[f"measured_{name}"] = measured[name]
    reference = found.get("reference", {})
    line["ema_decay"] = row.ema
    line["guidance_scale"] = spec.settings[entry.setting].scale
    line["images"] = found.get("images")
    line["reference"], line["reference_images"] = _plain(reference.get("name")), reference.get("images")
    line["samples_sha256"] = found.get("samples", {}).get("sha256")
    return line


def _plain(name: str | None) -> str | None:
    """Name of a reference without what its file's name says besides."""
    return name.removeprefix("reference-") if name else None


def _columns() -> list[str]:
    compared = [f"{kind}_{name}" for name in QUANTITIES for kind in ("published", "measured", "difference")]
    details = ["ema_decay", "guidance_scale", "images", "reference", "reference_images", "samples_sha256"]
    return [*Entry._fields, "status", "run", *compared, *(f"measured_{name}" for name in EXTRA), *details]


def _cost_values(cost: Mapping[str, Any]) -> dict[str, float]:
    if not cost:
        return {}
    return {"params_millions": cost["trainable"] / 1e6, "gflops": cost["flops"] / 1e9}


def _difference(measured: float | None, published: float | None) -> float | None:
    return None if measured is None or published is None else measured - published


def _read_metrics(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(path)
    missing = [name for name in METRICS if name not in found]
    if missing:
        raise UserError(f"{path}: no {', '.join(missing)}; evaluate these samples again")
    return found


def _check_known(spec: TableSpec, metrics: Mapping[Entry, Path]) -> None:
    rows = [row.id for row in spec.rows]
    for entry in metrics:
        for value, known, kind in (
            (entry.row, rows, "row"),
            (entry.epoch, spec.epochs, "epoch"),
            (entry.setting, list(spec.settings), "guidance setting"),
        ):
            if value not in known:
                raise UserError(f"{kind} '{value}' is not in the table; it has {', '.join(map(str, known))}")
