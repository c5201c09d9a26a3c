"""Documents from the templates of this folder: a table as Markdown, HTML and LaTeX, with its footnotes."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markdown_it import MarkdownIt

from dsr.artifacts import manifest
from dsr.base.files import read_record, write_text
from dsr.base.text import pipe_table
from dsr.config.agreement import IMAGENET
from dsr.config.load import Config
from dsr.config.sampling import CHOSEN
from dsr.report.entries import QUANTITIES, Entries
from dsr.report.table import MEASURED, TableInput, supplements, with_variants

MARK = "†"
"""Stands at the FID of a row some of whose images are one colour all over."""
_WORDS = {"Row", "Rows", "Epochs", "Guidance", "Value", "EMA decay", "Reference", "Verdict", "Encoder", "TTR"}
"""Columns that hold words; the others hold numbers."""


@dataclass(frozen=True)
class TableFiles:
    """Where a table is written, in every format."""

    markdown_file: Path
    """Markdown file to write."""
    csv: Path
    """CSV file to write, with more columns."""
    html: Path
    """Page of its own to write."""
    latex_file: Path
    """LaTeX file to write."""

    def write(self, markdown: str, frame: pd.DataFrame, latex: str) -> None:
        """Write the document, the lines behind it, and the table in LaTeX."""
        write_text(self.markdown_file, markdown)
        write_text(self.html, page(markdown))
        write_text(self.latex_file, latex)
        write_text(self.csv, frame.to_csv(index=False, float_format="%.6g"))


def write_table(config: Config, entries: Entries, files: TableFiles, table: str = "") -> None:
    """Write a table in every format: published, measured and the difference, for every row, epoch and guidance.

    Args:
        config: the configuration.
        entries: what is measured, or can be.
        files: the table in every format.
        table: id of one of the configuration's tables; empty is Table 1.
    """
    entries.require(config)
    given = TableInput(config, entries.root, table)
    files.write(markdown(given), with_variants(given), latex(given))


def write_card(config: Config, entries: Entries, weights: Path, output: Path) -> None:
    """Write the model card of a row at an epoch, as the Hugging Face hub shows it.

    Args:
        config: the configuration.
        entries: the sets of images of the row at this epoch.
        weights: the moving average that they were drawn with.
        output: Markdown file to write.
    """
    entries.require(config)
    given = TableInput(config, entries.root)
    name, artifacts = entries.root[0].row, manifest.load().artifacts
    row = config.rows[name]
    text = fill(
        "card.md.j2",
        config=config,
        name=name,
        epoch=entries.root[0].epoch,
        row=row,
        imagenet=config.data.classes == IMAGENET,
        encoder=config.encoders[row.encoder],
        sources={key: artifacts.get(key) for key in (row.encoder, f"decoder-{row.encoder}", "imagenet-train")},
        about=read_record(weights),
        folder=output.parent,
        scores=[one for one in given.frame.itertuples() if one.status == MEASURED],
        table=pipe(shown(given)),
        notes=footnotes(given),
    )
    write_text(output, text)


def markdown(given: TableInput) -> str:
    """Return a table as Markdown, with the small ones below it."""
    return fill(
        "table.md.j2",
        given=given,
        title=_title(given),
        table=shown(given),
        supplements=supplements(given),
        notes=footnotes(given),
        pipe=pipe,
    )


def latex(given: TableInput) -> str:
    """Return a table in LaTeX (needs `booktabs`); seeds and references follow in tables of their own."""
    captions = [(_title(given), " ".join(footnotes(given)), shown(given))]
    return "\n".join(latex_table(lines, f"{title}. {note}") for title, note, lines in [*captions, *supplements(given)])


def shown(given: TableInput) -> pd.DataFrame:
    """Return the lines of a table as people read them, without columns that are empty."""
    kinds = ("published", "measured", "difference") if given.comparable else ("measured",)
    lines: pd.DataFrame = pd.DataFrame(
        [_line(entry, kind) for _, entry in given.frame.iterrows() for kind in kinds], dtype=str
    )
    if lines.empty:
        return lines
    lines.loc[lines["Value"] != kinds[0], ["Row", "Epochs", "Guidance"]] = ""
    lines = lines if given.comparable else lines.drop(columns="Value")
    filled: pd.DataFrame = lines.loc[:, (lines != "").any()]
    return filled


def footnotes(given: TableInput) -> list[str]:
    """Return the sentences that say how the numbers were measured."""
    trained = [found for one in given.drawn if (found := one.get("weights", {}).get("train"))]
    references = {
        f"{one.reference} ({one.reference_images:.0f} images)"
        for one in given.frame[given.frame["status"] == MEASURED].itertuples()
    }
    text = fill(
        "notes.j2",
        given=given,
        trained={spec["row"]: spec["recipe"]["precision"] for spec in trained},
        references=sorted(references),
        mark=MARK,
        describe=_describe,
        general="{:g}".format,
    )
    return text.splitlines()


def latex_table(lines: pd.DataFrame, caption: str) -> str:
    """Return lines as people read them as a table in LaTeX."""
    alignment = "".join("l" if name in _WORDS else "r" for name in lines)
    caption = re.sub(r"([_%&#])", r"\\\1", caption)
    return str(lines.to_latex(index=False, escape=True, caption=caption, column_format=alignment))


def pipe(lines: pd.DataFrame) -> str:
    """Return them as a table in Markdown."""
    return pipe_table([*lines], lines.to_numpy().tolist(), {*lines} - _WORDS)


def _describe(entry: Any) -> str:
    """Say what the guidance of a line is."""
    scale, low, high = entry.guidance_scale, entry.guidance_low, entry.guidance_high
    return f"scale {scale:g} for t in [{low:g}, {high:g}]"


def _title(given: TableInput) -> str:
    title = given.section.title if given.section else given.config.name
    return title if given.comparable else f"{title} (not the paper's experiment)"


def _line(entry: pd.Series, kind: str) -> dict[str, str]:
    """Cells of a line of one kind: published, measured or difference."""
    guidance, measured, sign = entry["guidance"], kind == "measured", "+" if kind == "difference" else ""
    if guidance == CHOSEN and not pd.isna(entry["guidance_scale"]):
        guidance += f": {_describe(entry)}"
    cells = {"Row": entry["row"], "Epochs": str(entry["epoch"]), "Guidance": guidance, "Value": kind}
    for name, quantity in QUANTITIES.items():
        value, decimals = entry[f"{kind}_{name}"], quantity.measured if measured else quantity.published
        cells[quantity.title] = "" if pd.isna(value) else f"{value:{sign}.{decimals}f}"
    if measured and entry["status"] != MEASURED:
        cells["FID"] = entry["status"]
    elif measured and (entry["constant_images"] or 0) > 0:
        cells["FID"] += f" {MARK}"
    cells["EMA decay"] = f"{entry['ema_decay']:g}" if measured and not pd.isna(entry["ema_decay"]) else ""
    cells["Reference"] = (entry["reference"] or "") if measured else ""
    return cells


def fill(template: str, **values: Any) -> str:
    """Return a template of this folder with these values in it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dsr", "report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def page(markdown: str) -> str:
    """Return the document as one HTML file that loads nothing; HTML in the document is shown, not interpreted."""
    title = next((line.lstrip("# ") for line in markdown.splitlines() if line.startswith("# ")), "")
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return fill("page.html.j2", title=title, body=body)
