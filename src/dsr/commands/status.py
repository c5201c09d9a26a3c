"""Show where every row stands: `make status`. Only reads files, so it works while jobs run and disturbs none."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from pydantic import ValidationError

from dsr.base.errors import UserError
from dsr.base.logs import command
from dsr.plan.status import StatusSpec, slurm_queue, table


@command
def main() -> None:
    """Write the table to the terminal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path, help="what the workflow wrote when it started: <results>/status.json")
    path = parser.parse_args().spec
    try:
        spec = StatusSpec.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; Snakemake writes it when it starts (not in a dry run). For results in another "
            "folder: make status RESULTS=results/demo"
        ) from None
    except ValidationError:
        raise UserError(f"{path}: written by another version; it is written anew when Snakemake starts") from None
    sys.stdout.write(table(spec, slurm_queue(), time.time()))


if __name__ == "__main__":
    main()
