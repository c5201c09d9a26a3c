"""A table as data: rows at epochs, published, measured and the difference (pandas, no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dsr.base.errors import UserError
from dsr.base.files import read_json
from dsr.config.sampling import CHOSEN, Guidance
from dsr.report.published import METRICS, Published
from dsr.report.specs import CHART, TableRow, TableSpec

COUNTED = {"params_millions": 0, "gflops": 1}
"""Quantities of the model itself and the decimals that are published of them."""
QUANTITIES = (*METRICS, *COUNTED)
"""Quantities that have a published, a measured and a difference column."""
EXTRA = ("sfid", "precision_f32", "recall_f32")
"""Measured quantities without a published counterpart."""
UNGUIDED, GUIDED = "unguided", "guided"
NOT_RUN = "not run"
"""Status of what has no metrics file, but can have one."""


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
    spec: TableSpec,
    metrics: Mapping[Entry, Path],
    costs: Mapping[str, Path],
    published: Published,
    chosen: Mapping[Entry, Path] | None = None,
) -> pd.DataFrame:
    """Return one line per row, epoch and guidance setting with a metrics path or a comparable published value.

    A metrics file that does not exist leaves the measured cells empty, with status NOT_RUN and the command that makes
    it, or with the reason why there is none. Costs, and guidance settings chosen by a sweep, are read where they exist.

    Raises:
        UserError: if a path belongs to no row, epoch or setting of the table, or a metrics file lacks a key.
    """
    _check_known(spec, metrics)
    settings = {**spec.settings, **({CHOSEN: None} if spec.sweep else {})}
    epochs, lines = set(spec.epochs), []
    if spec.published and spec.published_epochs:
        epochs |= set(published.epochs(spec.published_list, [row.published for row in spec.rows]))
    for row in spec.rows:
        cost = read_json(costs[row.id]) if row.id in costs and costs[row.id].exists() else {}
        for epoch in sorted(epochs & set(row.epochs) if row.epochs else epochs):
            for setting, guidance in settings.items():
                entry = Entry(row.id, epoch, setting)
                known = _published(spec, row, epoch, guidance, published)
                comparable = any(known[name] is not None for name in METRICS)
                if not (spec.every or entry in metrics or comparable):
                    continue
                path = (chosen or {}).get(entry)
                found = Guidance.model_validate_json(path.read_text()) if path and path.exists() else guidance
                lines.append(_line(spec, row, entry, metrics.get(entry), cost, known, found))
    frame: pd.DataFrame = pd.DataFrame(lines, columns=_columns())
    return frame


def _published(
    spec: TableSpec, row: TableRow, epoch: int, guidance: Guidance | None, published: Published
) -> dict[str, float | None]:
    """Look up published values by quantity, if they are comparable; without ``guidance`` it is what a sweep chooses."""
    if not spec.published:
        return dict.fromkeys(QUANTITIES)
    setting = GUIDED if guidance is None or guidance.scale > 1 else UNGUIDED
    chart = spec.published_list == CHART
    known = {name: published.value(row.published, epoch, setting, name, chart=chart) for name in METRICS}
    line = (spec.published_list, row.published, epoch, setting)
    return known | {name: published.constant(*line, name) for name in COUNTED}


def _line(
    spec: TableSpec,
    row: TableRow,
    entry: Entry,
    path: Path | None,
    cost: Mapping[str, Any],
    published: Mapping[str, float | None],
    guidance: Guidance | None,
) -> dict[str, Any]:
    exists = path is not None and path.exists()
    found = _read_metrics(path) if path is not None and exists else {}
    measured = {**{name: found.get(name) for name in (*METRICS, *EXTRA)}, **_cost_values(cost)}
    line: dict[str, Any] = {**entry._asdict(), "status": "measured" if exists else row.absent or NOT_RUN}
    line["run"] = spec.commands.get(":".join(map(str, entry)), "") if line["status"] == NOT_RUN else ""
    compared = any(published[name] is not None for name in METRICS)
    line["published_from"] = ("chart" if spec.published_list == CHART else "tables") if compared else None
    for name in QUANTITIES:
        line[f"published_{name}"] = published[name]
        line[f"measured_{name}"] = measured.get(name)
        line[f"difference_{name}"] = _difference(measured.get(name), published[name], COUNTED.get(name))
    for name in EXTRA:
        line[f"measured_{name}"] = measured[name]
    reference = found.get("reference", {})
    line["ema_decay"] = row.ema
    if guidance is not None:
        line["guidance_scale"], (line["guidance_low"], line["guidance_high"]) = guidance.scale, guidance.interval
    line["images"] = found.get("images")
    line["reference"], line["reference_images"] = _plain(reference.get("name")), reference.get("images")
    samples = found.get("samples", {})
    line["constant_images"], line["samples_sha256"] = samples.get("constant_images"), samples.get("sha256")
    return line


def _plain(name: str | None) -> str | None:
    """Name of a reference without what its file's name says besides."""
    return name.removeprefix("reference-") if name else None


def _columns() -> list[str]:
    compared = [f"{kind}_{name}" for name in QUANTITIES for kind in ("published", "measured", "difference")]
    details = [
        "ema_decay",
        "guidance_scale",
        "guidance_low",
        "guidance_high",
        "images",
        "reference",
        "reference_images",
        "constant_images",
        "samples_sha256",
    ]
    return [
        *Entry._fields,
        "status",
        "run",
        "published_from",
        *compared,
        *(f"measured_{name}" for name in EXTRA),
        *details,
    ]


def _cost_values(cost: Mapping[str, Any]) -> dict[str, float]:
    if not cost:
        return {}
    return {"params_millions": cost["trainable"] / 1e6, "gflops": cost["flops"] / 1e9}


def _difference(measured: float | None, published: float | None, decimals: int | None) -> float | None:
    """Measured minus published; of a count that is published rounded, the difference of the rounded ones."""
    if measured is None or published is None:
        return None
    return measured - published if decimals is None else round(round(measured, decimals) - published, decimals)


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
            (entry.setting, [*spec.settings, *([CHOSEN] if spec.sweep else [])], "guidance setting"),
        ):
            if value not in known:
                raise UserError(f"{kind} '{value}' is not in the table; it has {', '.join(map(str, known))}")
