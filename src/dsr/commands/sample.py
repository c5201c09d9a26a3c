"""Draw a row's images: `torchrun ... -m dsr.commands.sample ...`; the same command again goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dsr.base.command import command
from dsr.base.distributed import world
from dsr.config.sampling import Guidance
from dsr.sampling.generate import Job, generate

PATIENCE_MINUTES = 24 * 60.0
"""Processes wait this long for each other; they meet only after all of their shards. A lost one ends all at once."""


@command
def main(job: Job, guidance: Path | None = None) -> None:
    """Write the images and, beside them, what they were made from.

    Args:
        guidance: JSON file with scale and interval, instead of the specification's.
    """
    if guidance is not None:
        chosen = Guidance.model_validate_json(guidance.read_text(encoding="utf-8"))
        job = dataclasses.replace(job, spec=job.spec.model_copy(update={"guidance": chosen}))
    with world(timeout_minutes=PATIENCE_MINUTES) as processes:
        generate(job, processes)


if __name__ == "__main__":
    main()
