"""Train a row to a milestone: `torchrun ... -m dsr.commands.train ...`; the same command again goes on."""

import sys

from dsr.base.command import command
from dsr.base.distributed import world
from dsr.base.errors import EXIT_STOPPED
from dsr.training.loop import train
from dsr.training.start import Job


@command
def main(job: Job) -> None:
    """Exit with 0 at the milestone, 75 if stopped before it with the state saved, 1 on an error."""
    with world() as processes:
        reached = train(job, processes)
    if not reached:
        sys.exit(EXIT_STOPPED)


if __name__ == "__main__":
    main()
