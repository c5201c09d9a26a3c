"""Draw a row's images: `torchrun ... -m dsr.commands.sample ...`; the same command again goes on."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.base import logs
from dsr.base.distributed import world
from dsr.config.sampling import Guidance
from dsr.config.specs import SampleSpec
from dsr.sampling.generate import Job, generate

PATIENCE_MINUTES = 24 * 60.0
"""Processes wait this long for each other; they meet only after all of their shards. A lost one ends all at once."""


@logs.command
def main() -> None:
    """Write the images and, beside them, the record of their origin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--spec", required=True, help="SampleSpec as JSON: what determines the images, besides the three input files")
    add("--guidance", nargs="?", type=Path, help="JSON file with scale and interval, instead of the specification's")
    add("--weights", required=True, type=Path, help="EMA weights of the denoiser")
    add("--statistics", required=True, type=Path, help="latent statistics")
    add("--decoder", required=True, type=Path, help="weights of the decoder")
    add("--shards", required=True, type=Path, help="folder of finished parts, kept between calls")
    add("--output", required=True, type=Path, help="npz of the images (arr_0); a record is written beside it (.json)")
    add("--batch", type=int, default=125, help="images per process that are drawn together")
    add("--threads", type=int, default=1, help="CPU threads per process")
    add("--compile", action="store_true", help="compile the denoiser")
    arguments = parser.parse_args()
    options = vars(arguments)
    spec, guidance = SampleSpec.model_validate_json(options.pop("spec")), options.pop("guidance")
    if guidance is not None:
        spec = spec.model_copy(update={"guidance": Guidance.model_validate_json(guidance.read_text(encoding="utf-8"))})
    with world(timeout_minutes=PATIENCE_MINUTES) as processes:
        generate(Job(spec=spec, **options), processes)


if __name__ == "__main__":
    main()
