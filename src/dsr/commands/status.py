"""Show where every row stands: `make status`. Only reads files, so it works while jobs run and disturbs none."""

import sys
import time
from pathlib import Path

import tyro
from pydantic import ValidationError

from dsr.base.command import command
from dsr.base.errors import UserError
from dsr.plan.status import StatusSpec, slurm_queue, table


@command
def main(spec: tyro.conf.Positional[Path]) -> None:
    """Write the table to the terminal.

    Args:
        spec: what the workflow wrote when it started: <results>/status.json.
    """
    try:
        files = StatusSpec.model_validate_json(spec.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{spec}: no such file; Snakemake writes it when it starts (not in a dry run). For results in another "
            "folder: make status RESULTS=results/demo"
        ) from None
    except ValidationError:
        raise UserError(f"{spec}: written by another version; it is written anew when Snakemake starts") from None
    sys.stdout.write(table(files, slurm_queue(), time.time()))


if __name__ == "__main__":
    main()
