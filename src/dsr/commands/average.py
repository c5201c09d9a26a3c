"""Publish one more of the moving averages that the trainer keeps of a milestone; nothing is trained."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.base.errors import UserError
from dsr.base.logs import command
from dsr.config.specs import TrainSpec
from dsr.training.snapshot import publish, snapshot_path


@command
def main() -> None:
    """Copy the average out of the run directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="TrainSpec as JSON: what determines the weights")
    parser.add_argument("--epoch", type=int, required=True, help="the milestone")
    parser.add_argument("--decay", type=float, required=True, help="decay of the average, one of the recipe's")
    parser.add_argument("--run-dir", type=Path, required=True, help="directory of the training state")
    parser.add_argument("--output", type=Path, required=True, help="weights to write")
    arguments = parser.parse_args()
    spec = TrainSpec.model_validate_json(arguments.spec)
    if arguments.decay not in spec.recipe.ema:
        raise UserError(
            f"decay {arguments.decay} is none of recipe.ema ({', '.join(map(str, spec.recipe.ema))}); an average"
            " cannot be had afterwards: add it to the recipe, which trains the row anew"
        )
    snapshot = snapshot_path(arguments.run_dir, arguments.epoch, arguments.decay)
    if not snapshot.exists():
        raise UserError(f"{snapshot}: no such file; restore the run directory, or train this milestone again")
    publish(snapshot, arguments.output, spec)


if __name__ == "__main__":
    main()
