"""EMA weights of a milestone: kept in the run directory for every decay, published for the first."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from dsr.base import files, tensors
from dsr.base.errors import UserError
from dsr.base.records import read_record
from dsr.config.specs import TrainSpec, WeightsSpec, content, require
from dsr.training.learner import Learner

log = logging.getLogger(__name__)


def snapshot_path(run: Path, epoch: int, decay: float) -> Path:
    """File of the averages with ``decay`` after ``epoch`` epochs."""
    return run / f"ema-{epoch}-{decay}.safetensors"


def write(run: Path, learner: Learner, spec: TrainSpec, epoch: int) -> None:
    """Write the averages of every decay, each a complete denoiser (the model's buffers included)."""
    for decay, average in learner.averages.items():
        weights = WeightsSpec(train=spec, epoch=epoch, decay=float(decay))
        tensors.write(
            snapshot_path(run, epoch, float(decay)),
            {**learner.model.state_dict(), **average.state_dict()},
            {"spec": content(weights), "step": learner.step},
        )


def epoch_of(weights: Path) -> int:
    """Return the epoch after which a file written here was made.

    Raises:
        UserError: if the file is missing or was not written here.
    """
    try:
        return int(read_record(weights)["spec"]["epoch"])
    except (UserError, KeyError):
        raise UserError(f"{weights}: expected the EMA weights of a milestone; train that milestone first") from None


def publish(spec: TrainSpec, epoch: int, decay: float, run_dir: Path, output: Path) -> None:
    """Publish one of the moving averages that the trainer keeps of a milestone; nothing is trained.

    Args:
        spec: What determines the weights.
        epoch: The milestone.
        decay: Decay of the average, one of the recipe's.
        run_dir: Directory of the training state.
        output: Weights to write, atomically.

    Raises:
        UserError: if there is no such average, or it was trained with another specification.
    """
    if decay not in spec.recipe.ema:
        raise UserError(
            f"decay {decay} is none of recipe.ema ({', '.join(map(str, spec.recipe.ema))}); an average cannot be had"
            " afterwards: add it to the recipe, which trains the row anew"
        )
    snapshot = snapshot_path(run_dir, epoch, decay)
    if not snapshot.exists():
        raise UserError(f"{snapshot}: no such file; restore the run directory, or train this milestone again")
    require(snapshot, read_record(snapshot).get("spec", {}), WeightsSpec(train=spec, epoch=epoch, decay=decay))
    with files.atomic(output) as temporary:
        shutil.copyfile(snapshot, temporary)
    log.info("Published %s", output)
