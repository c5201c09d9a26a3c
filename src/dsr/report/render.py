"""A table as Markdown and LaTeX, with the footnotes that its numbers need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from dsr.base.markup import pipe_table
from dsr.config.sampling import CHOSEN, Guidance
from dsr.report.notes import MARK, OFF_CHART, describe, disclaimer, footnotes
from dsr.report.published import Published
from dsr.report.specs import CHART, TableSpec
from dsr.report.table import COUNTED, QUANTITIES
from dsr.report.variants import Variant, supplements

TITLES = {
    "fid": "FID",
    "inception_score": "IS",
    "precision": "Precision",
    "recall": "Recall",
    "params_millions": "Parameters (M)",
    "gflops": "GFLOPs",
}
_MEASURED = {"fid": ".2f", "inception_score": ".2f", "precision": ".3f", "recall": ".3f"} | {
    "params_millions": ".2f",
    "gflops": ".3f",
}
_PUBLISHED = _MEASURED | {name: f".{decimals}f" for name, decimals in COUNTED.items()}
_FORMS = {
    "measured": _MEASURED,
    "published": _PUBLISHED,
    "difference": {name: f"+{form}" for name, form in _PUBLISHED.items()},
}

Line = dict[str, str]


def markdown(
    spec: TableSpec, frame: pd.DataFrame, published: Published, fids: Mapping[Variant, float] | None = None
) -> str:
    """Return a table as Markdown; where published values are not comparable they stand in a table of their own.

    ``fids`` are those of several sampling seeds or references, if there are any.
    """
    if spec.published:
        parts = [f"# {_title(spec)}: published and measured", *_project(spec), _pipe(_compared(frame))]
    else:
        parts = [f"# {_title(spec)}", *_project(spec), disclaimer(spec), _pipe(_measured(frame))]
        known = published.lines(spec.published_list)
        if not known.empty:
            label = [f"{OFF_CHART}."] if spec.published_list == CHART else []
            parts += ["## Published (ImageNet-256, not comparable)", *label, _pipe(_published(known))]
    for one in supplements(spec, frame, published, fids or {}):
        parts += [f"## {one.title}", one.note, pipe_table(one.heading, one.lines, one.heading[one.words :])]
    absent = frame[frame["run"] != ""]
    commands = [f"{one.row}, epoch {one.epoch}, {one.setting}: `{one.run}`" for one in absent.itertuples()]
    if commands:
        parts += ["## Not run yet", "Each of these commands runs one of them:", _bullets(commands)]
    parts += ["## How this was measured", _bullets(f"{note}." for note in footnotes(spec, frame))]
    parts += ["## Rows", _bullets(_rows(spec, published))]
    return "\n\n".join(parts) + "\n"


def latex(
    spec: TableSpec, frame: pd.DataFrame, published: Published, fids: Mapping[Variant, float] | None = None
) -> str:
    """Return a table in LaTeX (needs `booktabs`), without published values that are not comparable.

    Seeds and references follow in tables of their own.
    """
    lines = _compared(frame) if spec.published else _measured(frame)
    notes = " ".join(f"{note}." for note in footnotes(spec, frame))
    columns = [name for name in lines[0] if any(line[name] for line in lines)] if lines else []
    values = [[line[name] for name in columns] for line in lines]
    tables = [_latex_table(f"{_title(spec)}. {notes}", columns, values, list(TITLES.values()))]
    for one in supplements(spec, frame, published, fids or {}):
        tables.append(_latex_table(f"{one.title}. {one.note}", one.heading, one.lines, one.heading[one.words :]))
    return "\n".join(tables)


def _latex_table(caption: str, heading: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[str]) -> str:
    values = pd.DataFrame(lines, columns=list(heading)).map(_escape).rename(columns=_escape)
    alignment = "".join("r" if name in right else "l" for name in heading)
    body: str = values.to_latex(index=False, column_format=alignment)
    return f"\\begin{{table}}\n\\caption{{{_escape(caption)}}}\n{body}\\end{{table}}\n"


def _title(spec: TableSpec) -> str:
    title = spec.title or spec.name
    return title if spec.published else f"{title} (not the paper's experiment)"


def _project(spec: TableSpec) -> list[str]:
    return [f"{spec.name}."] if spec.title else []


def _compared(frame: pd.DataFrame) -> list[Line]:
    lines: list[Line] = []
    for _, entry in frame.iterrows():
        for kind in ("published", "measured", "difference"):
            label = _label(entry) if kind == "published" else dict.fromkeys(_label(entry), "")
            lines.append({**label, "Value": kind, **_cells(entry, kind)})
    return lines


def _measured(frame: pd.DataFrame) -> list[Line]:
    return [{**_label(entry), **_cells(entry, "measured")} for _, entry in frame.iterrows()]


def _published(known: pd.DataFrame) -> list[Line]:
    names = {"row": "id", "label": "row", "epochs": "epoch"} | {name: f"published_{name}" for name in QUANTITIES}
    renamed = known.rename(columns=names)
    return [{**_label(entry), **_cells(entry, "published")} for _, entry in renamed.iterrows()]


def _label(entry: pd.Series) -> Line:
    guidance = entry["setting"]
    if guidance == CHOSEN and not pd.isna(entry["guidance_scale"]):
        interval = (entry["guidance_low"], entry["guidance_high"])
        guidance += f": {describe(Guidance(scale=entry['guidance_scale'], interval=interval))}"
    return {"Row": entry["row"], "Epochs": str(entry["epoch"]), "Guidance": guidance}


def _cells(entry: pd.Series, kind: str) -> Line:
    values = ((name, entry[f"{kind}_{name}"]) for name in QUANTITIES)
    cells = {TITLES[name]: "" if pd.isna(value) else format(value, _FORMS[kind][name]) for name, value in values}
    details = {"EMA decay": "", "Reference": ""}
    if kind == "measured":
        decay = "" if pd.isna(entry["ema_decay"]) else f"{entry['ema_decay']:g}"
        details = {"EMA decay": decay, "Reference": entry["reference"] or ""}
        if entry["status"] != "measured":
            cells["FID"] = entry["status"]
        elif (entry["constant_images"] or 0) > 0:
            cells["FID"] += f" {MARK}"
    return {**cells, **details}


def _pipe(lines: list[Line]) -> str:
    """Columns that hold nothing at all are left out."""
    if not lines:
        return "Nothing has been measured yet."
    columns = [column for column in lines[0] if any(line[column] for line in lines)]
    return pipe_table(columns, [[line[column] for column in columns] for line in lines], list(TITLES.values()))


def _rows(spec: TableSpec, published: Published) -> list[str]:
    """Say what every row is; one that is not configured is called what the paper calls it."""
    lines = []
    for row in spec.rows:
        unknown = f"{published.label(row.published)} ({row.absent or 'not configured'})".strip()
        lines.append(f"**{row.id}**: {row.about or unknown}.")
    return lines


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _escape(text: str) -> str:
    return "".join({"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#"}.get(character, character) for character in text)
