"""Draw a row's images: `torchrun ... -m dsr.commands.sample ...`; the same command again goes on."""

from dsr.base.command import command
from dsr.base.distributed import world
from dsr.sampling.generate import PATIENCE_MINUTES, Job, generate


@command
def main(job: Job) -> None:
    """Write the images and, beside them, what they were made from."""
    with world(timeout_minutes=PATIENCE_MINUTES) as processes:
        generate(job, processes)


if __name__ == "__main__":
    main()
