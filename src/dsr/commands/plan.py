"""Say what a configuration costs before anything is run: time, GPU-hours, memory, disk, downloads."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.artifacts import manifest
from dsr.base.files import write_text
from dsr.base.logs import command
from dsr.config.load import Config
from dsr.plan import throughput
from dsr.plan.render import markdown


@command
def main() -> None:
    """Write the plan as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="Config as JSON")
    parser.add_argument("--measurements", type=Path, default=throughput.PACKAGED, help="CSV of measured throughputs")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    arguments = parser.parse_args()
    config = Config.model_validate_json(arguments.spec)
    write_text(arguments.output, markdown(config, manifest.load(), throughput.read(arguments.measurements)))


if __name__ == "__main__":
    main()
