"""EMA weights of a milestone: kept in the run directory for every decay, published for the first."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dsr.base import files
from dsr.base.errors import UserError
from dsr.config.specs import TrainSpec, spec_hash
from dsr.training.learner import Learner

log = logging.getLogger(__name__)


def snapshot_path(run: Path, epoch: int, decay: float) -> Path:
    """File of the averages with ``decay`` after ``epoch`` epochs."""
    return run / f"ema-{epoch}-{decay}.safetensors"


def write(run: Path, learner: Learner, spec: TrainSpec, epoch: int) -> None:
    """Write the averages of every decay, each a complete denoiser (the model's buffers included)."""
    for decay, average in learner.averages.items():
        weights = {**learner.model.state_dict(), **average.state_dict()}
        about = {"row": spec.row, "epoch": epoch, "step": learner.step, "decay": decay, "spec_hash": spec_hash(spec)}
        with files.atomic(snapshot_path(run, epoch, float(decay))) as temporary:
            save_file(
                {name: value.detach().contiguous() for name, value in weights.items()},
                temporary,
                metadata={key: str(value) for key, value in about.items()},
            )


def epoch_of(weights: Path) -> int:
    """Return the epoch after which a file written here was made.

    Raises:
        UserError: if the file is missing or was not written here.
    """
    try:
        with safe_open(weights, framework="pt") as file:
            return int((file.metadata() or {})["epoch"])
    except (OSError, SafetensorError, KeyError):
        raise UserError(f"{weights}: expected the EMA weights of a milestone; train that milestone first") from None


def publish(snapshot: Path, output: Path, spec: TrainSpec) -> None:
    """Copy a snapshot to ``output``, atomically.

    Raises:
        UserError: if the snapshot was trained with another specification.
    """
    with safe_open(snapshot, framework="pt") as file:
        found = (file.metadata() or {}).get("spec_hash")
    if found != spec_hash(spec):
        raise UserError(
            f"{snapshot}: trained with another specification ({found}, not {spec_hash(spec)});"
            " use another run directory"
        )
    with files.atomic(output) as temporary:
        shutil.copyfile(snapshot, temporary)
    log.info("Published %s", output)
