"""Count the parameters and forward FLOPs of a row's denoiser; needs neither weights nor an accelerator."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from dsr.analysis.cost import denoiser_cost
from dsr.base.files import write_json
from dsr.base.logs import command
from dsr.config.specs import ModelSpec


@command
def main() -> None:
    """Count one denoiser."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="ModelSpec as JSON")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    write_json(arguments.output, asdict(denoiser_cost(ModelSpec.model_validate_json(arguments.spec))))


if __name__ == "__main__":
    main()
