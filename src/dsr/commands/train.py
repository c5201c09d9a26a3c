"""Train a row to a milestone: `torchrun ... -m dsr.commands.train ...`; the same command again goes on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dsr.base import logs
from dsr.base.distributed import world
from dsr.config.specs import TrainSpec
from dsr.training.loop import train
from dsr.training.snapshot import epoch_of
from dsr.training.start import Job
from dsr.training.stop import EXIT_STOPPED


@logs.command
def main() -> None:
    """Exit with 0 at the milestone, 75 if stopped before it with the state saved, 1 on an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--spec", required=True, help="TrainSpec as JSON: what determines the weights")
    add("--epoch", required=True, type=int, help="train to the end of this epoch")
    add("--after", nargs="?", help="milestone before this one, as epoch or EMA file; only without it may a run be new")
    add("--images", required=True, type=Path, help="index of the prepared training images")
    add("--encoder", required=True, type=Path, help="folder of the encoder")
    add("--neurons", type=Path, nargs="?", help="neuron file, if the row has test-time registers")
    add("--statistics", required=True, type=Path, help="latent statistics")
    # Not `--run`: torchrun would take that for an abbreviation of its own `--run-path`.
    add("--run-dir", required=True, type=Path, help="directory of the training state, kept between calls")
    add("--output", required=True, type=Path, help="EMA weights of the milestone (first decay), written last")
    add("--micro-batch", type=int, help="images per process and backward pass (default: the most that fit)")
    add("--workers", type=int, default=0, help="data-loading workers per process")
    add("--threads", type=int, default=1, help="CPU threads per process")
    add("--compile", action="store_true", help="compile encoder and denoiser")
    flag = argparse.BooleanOptionalAction
    add("--deterministic", action=flag, default=True, help="on GPUs, the same bits in every start, somewhat slower")
    add("--checkpoint-minutes", type=float, default=10.0, help="time between checkpoints")
    add("--log-every", type=int, default=100, help="steps between reports")
    add("--minutes", type=float, help="save and leave after this long (default: no limit)")
    add("--tensorboard", action=flag, default=True, help="write TensorBoard files")
    arguments = parser.parse_args()
    options = vars(arguments) | {
        "spec": TrainSpec.model_validate_json(arguments.spec),
        "after": milestone(arguments.after) if arguments.after else None,
    }
    with world() as processes:
        reached = train(Job(**options), processes)
    if not reached:
        sys.exit(EXIT_STOPPED)


def milestone(text: str) -> int:
    """Return the epoch that ``text`` says, or that the EMA file of this name was written after."""
    return int(text) if text.isdigit() else epoch_of(Path(text))


if __name__ == "__main__":
    main()
