"""Write a table: published, measured and the difference, for every row, epoch and guidance."""

from __future__ import annotations

from pathlib import Path

from dsr.base.command import command
from dsr.base.files import write_text
from dsr.config.load import Config
from dsr.report.entries import Entries
from dsr.report.page import page
from dsr.report.render import latex, markdown
from dsr.report.supplements import read_fids, with_variants
from dsr.report.table import TableInput, collect


@command
def main(
    config: Config, entries: Entries, markdown_file: Path, csv: Path, html: Path, latex_file: Path, table: str = ""
) -> None:
    """Collect metrics and costs, and write the table in every format.

    Args:
        config: the configuration.
        entries: what is measured, or can be.
        markdown_file: Markdown file to write.
        csv: CSV file to write, with more columns.
        html: page of its own to write.
        latex_file: LaTeX file to write.
        table: id of one of the configuration's tables; empty is Table 1.
    """
    given = TableInput(config, entries.root, table)
    frame, fids = collect(given), read_fids(entries.root)
    text = markdown(given, frame, fids)
    write_text(markdown_file, text)
    write_text(html, page(text))
    write_text(latex_file, latex(given, frame, fids))
    write_text(csv, with_variants(config, frame, fids).to_csv(index=False, float_format="%.6g"))


if __name__ == "__main__":
    main()
