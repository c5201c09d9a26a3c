"""Reconstruct the validation images: `torchrun ... -m dsr.commands.reconstruct ...`; the same command again goes on."""

from dsr.base.command import command
from dsr.base.distributed import world
from dsr.sampling.generate import PATIENCE_MINUTES
from dsr.sampling.reconstruct import Job, reconstruct


@command
def main(job: Job) -> None:
    """Write the images as the autoencoder gives them back and, beside them, what they were made from."""
    with world(timeout_minutes=PATIENCE_MINUTES) as processes:
        reconstruct(job, processes)


if __name__ == "__main__":
    main()
