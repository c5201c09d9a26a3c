"""Write the JSON schema of `config.yaml`, for editors and readers."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.base.files import write_json
from dsr.base.logs import command
from dsr.config.load import Config


@command
def main() -> None:
    """Write the schema that the typed configuration generates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="schema file to write")
    write_json(parser.parse_args().output, Config.model_json_schema())


if __name__ == "__main__":
    main()
