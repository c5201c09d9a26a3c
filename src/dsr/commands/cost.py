"""Count the parameters and forward FLOPs of a row's denoiser; needs neither weights nor an accelerator."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from dsr.analysis.cost import denoiser_cost
from dsr.base.command import command
from dsr.base.files import write_json
from dsr.config.specs import ModelSpec


@command
def main(spec: ModelSpec, output: Path) -> None:
    """Count one denoiser.

    Args:
        spec: the denoiser.
        output: JSON file to write.
    """
    write_json(output, asdict(denoiser_cost(spec)))


if __name__ == "__main__":
    main()
