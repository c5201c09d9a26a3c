"""What a rehearsal needs besides the workflow's own commands: made inputs, and its page."""

from pathlib import Path

import pandas as pd

from dsr.artifacts import manifest
from dsr.base.command import command
from dsr.base.files import write_text
from dsr.config.load import Config
from dsr.demo.made import write_decoder, write_encoder, write_images
from dsr.plan.rehearsal import Rehearsed, page
from dsr.plan.throughput import Measurement
from dsr.report.render import page as html_page


def write_page(config: Config, rows: Rehearsed, markdown_file: Path, html: Path, measured: Path) -> None:
    """Write what a rehearsal found out.

    Args:
        config: The rehearsal's configuration.
        rows: Where the records of its jobs are.
        markdown_file: Markdown file to write.
        html: Page of its own to write.
        measured: CSV file of speeds to write, which the plan reads.
    """
    text, found = page(config, manifest.load(), rows)
    table = pd.DataFrame([entry.model_dump() for entry in found], columns=[*Measurement.model_fields], dtype=object)
    write_text(measured, table.to_csv(index=False))
    write_text(html, html_page(text))
    write_text(markdown_file, text)


if __name__ == "__main__":
    command(images=write_images, encoder=write_encoder, decoder=write_decoder, page=write_page)()
