"""Record where the results come from: code, configuration, versions, hardware and wall time."""

from __future__ import annotations

from pathlib import Path

from dsr.base.command import command
from dsr.base.files import write_json, write_text
from dsr.config.load import Config
from dsr.report.page import page
from dsr.report.provenance import Times, markdown, provenance


@command
def main(
    config: Config,
    source: Path,
    times: Times,
    environments: tuple[Path, ...],
    json: Path,
    markdown_file: Path,
    html: Path,
) -> None:
    """Write the record as JSON, as Markdown and as a page.

    Args:
        config: the configuration.
        source: folder of the code.
        times: files that tell how long the jobs of rows and encoders took.
        environments: conda environment files.
        json: JSON file to write.
        markdown_file: Markdown file to write.
        html: page of its own to write.
    """
    record = provenance(config, source, times, environments)
    text = markdown(record)
    write_json(json, record)
    write_text(markdown_file, text)
    write_text(html, page(text))


if __name__ == "__main__":
    main()
