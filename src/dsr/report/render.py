"""A table as Markdown and LaTeX, with the footnotes that its numbers need."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from dsr.base.files import write_text
from dsr.base.text import pipe_table
from dsr.config.load import Config
from dsr.config.sampling import CHOSEN, Guidance
from dsr.report.entries import QUANTITIES, Entries
from dsr.report.notes import MARK, describe, disclaimer, footnotes
from dsr.report.page import page
from dsr.report.supplements import read_fids, supplements, with_variants
from dsr.report.table import MEASURED, TableInput, collect

_WORDS = {"Row", "Rows", "Epochs", "Guidance", "Value", "EMA decay", "Reference"}
"""Columns that hold words; the others hold numbers."""
_TTR = {"none": "no test-time register", "single": "test-time register", "recursive": "recursive test-time register"}

Line = dict[str, str]


def write_table(
    config: Config, entries: Entries, markdown_file: Path, csv: Path, html: Path, latex_file: Path, table: str = ""
) -> None:
    """Write a table in every format: published, measured and the difference, for every row, epoch and guidance.

    Args:
        config: the configuration.
        entries: what is measured, or can be.
        markdown_file: Markdown file to write.
        csv: CSV file to write, with more columns.
        html: page of its own to write.
        latex_file: LaTeX file to write.
        table: id of one of the configuration's tables; empty is Table 1.
    """
    entries.require(config)
    given = TableInput(config, entries.root, table)
    frame, fids = collect(given), read_fids(entries.root)
    write_text(markdown_file, text := markdown(given, frame, fids))
    write_text(html, page(text))
    write_text(latex_file, latex(given, frame, fids))
    write_text(csv, with_variants(config, frame, fids).to_csv(index=False, float_format="%.6g"))


def markdown(given: TableInput, frame: pd.DataFrame, fids: pd.DataFrame) -> str:
    """Return a table as Markdown.

    Args:
        given: what the table is made of.
        frame: the table as :func:`dsr.report.table.collect` returns it.
        fids: FIDs of all sampling seeds and references.
    """
    project = [f"{given.config.name}."] if given.section else []
    if given.comparable:
        parts = [f"# {_title(given)}: published and measured", *project, _pipe(_compared(frame))]
    else:
        parts = [f"# {_title(given)}", *project, disclaimer(given.config), _pipe(_measured(frame))]
    for one in supplements(given.config, frame, fids):
        parts += [f"## {one.title}", one.note, pipe_table(one.heading, one.lines, {*one.heading} - _WORDS)]
    absent = frame[frame["run"] != ""]
    commands = [f"{one.row}, epoch {one.epoch}, {one.guidance}: `{one.run}`" for one in absent.itertuples()]
    if commands:
        parts += ["## Not run yet", "Each of these commands runs one of them:", _bullets(commands)]
    parts += ["## How this was measured", _bullets(f"{note}." for note in footnotes(given, frame))]
    parts += ["## Rows", _bullets(f"**{row}**: {_about(given, row)}." for row in given.rows)]
    return "\n\n".join(parts) + "\n"


def latex(given: TableInput, frame: pd.DataFrame, fids: pd.DataFrame) -> str:
    """Return a table in LaTeX (needs `booktabs`).

    Seeds and references follow in tables of their own. The arguments are those of :func:`markdown`.
    """
    lines = _compared(frame) if given.comparable else _measured(frame)
    notes = " ".join(f"{note}." for note in footnotes(given, frame))
    columns = _filled(lines)
    values = [[line[name] for name in columns] for line in lines]
    tables = [_latex_table(f"{_title(given)}. {notes}", columns, values)]
    for one in supplements(given.config, frame, fids):
        tables.append(_latex_table(f"{one.title}. {one.note}", one.heading, one.lines))
    return "\n".join(tables)


def _latex_table(caption: str, heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    values = pd.DataFrame(lines, columns=list(heading)).map(_escape).rename(columns=_escape)
    alignment = "".join("l" if name in _WORDS else "r" for name in heading)
    body: str = values.to_latex(index=False, column_format=alignment)
    return f"\\begin{{table}}\n\\caption{{{_escape(caption)}}}\n{body}\\end{{table}}\n"


def _title(given: TableInput) -> str:
    title = given.section.title if given.section else given.config.name
    return title if given.comparable else f"{title} (not the paper's experiment)"


def _compared(frame: pd.DataFrame) -> list[Line]:
    lines: list[Line] = []
    for _, entry in frame.iterrows():
        for kind in ("published", "measured", "difference"):
            label = _label(entry) if kind == "published" else dict.fromkeys(_label(entry), "")
            lines.append({**label, "Value": kind, **_cells(entry, kind)})
    return lines


def _measured(frame: pd.DataFrame) -> list[Line]:
    return [{**_label(entry), **_cells(entry, "measured")} for _, entry in frame.iterrows()]


def _label(entry: pd.Series) -> Line:
    guidance = entry["guidance"]
    if guidance == CHOSEN and not pd.isna(entry["guidance_scale"]):
        interval = (entry["guidance_low"], entry["guidance_high"])
        guidance += f": {describe(Guidance(scale=entry['guidance_scale'], interval=interval))}"
    return {"Row": entry["row"], "Epochs": str(entry["epoch"]), "Guidance": guidance}


def _cells(entry: pd.Series, kind: str) -> Line:
    cells, sign = {}, "+" if kind == "difference" else ""
    for name, quantity in QUANTITIES.items():
        value, decimals = entry[f"{kind}_{name}"], quantity.measured if kind == "measured" else quantity.published
        cells[quantity.title] = "" if pd.isna(value) else f"{value:{sign}.{decimals}f}"
    details = {"EMA decay": "", "Reference": ""}
    if kind == "measured":
        decay = "" if pd.isna(entry["ema_decay"]) else f"{entry['ema_decay']:g}"
        details = {"EMA decay": decay, "Reference": entry["reference"] or ""}
        if entry["status"] != MEASURED:
            cells["FID"] = entry["status"]
        elif (entry["constant_images"] or 0) > 0:
            cells["FID"] += f" {MARK}"
    return {**cells, **details}


def _pipe(lines: list[Line]) -> str:
    if not lines:
        return "Nothing has been measured yet."
    columns = _filled(lines)
    return pipe_table(columns, [[line[column] for column in columns] for line in lines], {*columns} - _WORDS)


def _filled(lines: list[Line]) -> list[str]:
    """Columns that hold anything at all."""
    return [column for column in (lines[0] if lines else {}) if any(line[column] for line in lines)]


def _about(given: TableInput, name: str) -> str:
    """Say what a row is; one that is not configured is called what the paper calls it."""
    row = given.config.rows.get(name)
    if row is None:
        return f"{given.published.label(name)} ({given.absent(name) or 'not configured'})".strip()
    origin = f"weights {row.weights.artifact}, not trained here" if row.weights else f"recipe {row.recipe}"
    return (
        f"{row.denoiser} on latents of {row.encoder}; {_TTR[row.ttr]}; {row.registers or 'no'} diffusion registers; "
        f"{origin}"
    )


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _escape(text: str) -> str:
    return re.sub(r"([_%&#])", r"\\\1", text)
