"""Compute mean and variance of an encoder's latents over the training images (one process, or under torchrun)."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.accel.arithmetic import set_arithmetic
from dsr.base.distributed import world
from dsr.base.logs import command
from dsr.config.specs import StatisticsSpec
from dsr.data.images import open_images
from dsr.encoder.autoencoder import load_autoencoder
from dsr.encoder.compute_statistics import compute_statistics


@command
def main() -> None:
    """Encode all images once and write the statistics file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="StatisticsSpec as JSON")
    parser.add_argument("--encoder", type=Path, required=True, help="Hugging Face folder of the encoder")
    parser.add_argument("--neurons", type=Path, nargs="?", help="neuron file (specifications with test-time registers)")
    parser.add_argument("--images", type=Path, required=True, help="index.npz of the prepared training images")
    parser.add_argument("--batch", type=int, default=64, help="images per process that are encoded together")
    parser.add_argument("--workers", type=int, default=0, help="data-loading workers per process")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    arguments = parser.parse_args()
    spec = StatisticsSpec.model_validate_json(arguments.spec)
    autoencoder = load_autoencoder(
        spec.autoencoder, encoder=arguments.encoder, neurons=arguments.neurons, statistics=None, decoder=None
    )
    # The arithmetic of the release's encoder: float32 with TF32 matrix products where the GPU has them.
    set_arithmetic("tf32")
    with world() as process:
        statistics = compute_statistics(
            spec,
            autoencoder.to(process.device),
            open_images(arguments.images),
            process,
            batch=arguments.batch,
            workers=arguments.workers,
        )
        if process.is_main:
            statistics.save(arguments.output)


if __name__ == "__main__":
    main()
