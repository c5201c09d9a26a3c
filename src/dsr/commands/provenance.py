"""Record where the results come from: code, configuration, versions, hardware and wall time."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.base.files import write_json, write_text
from dsr.base.logs import command
from dsr.commands.keyed import keyed_paths
from dsr.config.load import Config
from dsr.report.page import page
from dsr.report.provenance import markdown, provenance


@command
def main() -> None:
    """Write the record as JSON and as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="Config as JSON")
    parser.add_argument("--source", type=Path, required=True, help="folder of the code")
    parser.add_argument(
        "--benchmarks", nargs="*", default=[], metavar="JOB=PATH", help="Snakemake's benchmark files, where they exist"
    )
    parser.add_argument(
        "--records", nargs="*", default=[], metavar="ROW=PATH", help="the trainer's metrics files, where they exist"
    )
    parser.add_argument("--environments", type=Path, nargs="*", default=[], help="conda environment files")
    parser.add_argument("--json", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--markdown", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--html", type=Path, help="page of its own to write")
    arguments = parser.parse_args()

    config = Config.model_validate_json(arguments.spec)
    benchmarks, records = keyed_paths(arguments.benchmarks), keyed_paths(arguments.records)
    record = provenance(config, arguments.source, benchmarks, arguments.environments, records)
    text = markdown(record)
    write_json(arguments.json, record)
    write_text(arguments.markdown, text)
    if arguments.html:
        write_text(arguments.html, page(text))


if __name__ == "__main__":
    main()
