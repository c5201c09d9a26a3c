"""Compute mean and variance of an encoder's latents over the training images (one process, or under torchrun)."""

from pathlib import Path

from dsr.accel.device import set_arithmetic
from dsr.base.command import command
from dsr.base.distributed import world
from dsr.config.execution import Execution
from dsr.config.specs import StatisticsSpec
from dsr.data.images import open_images
from dsr.encoder.autoencoder import load_autoencoder
from dsr.encoder.statistics import compute_statistics


@command
def main(
    spec: StatisticsSpec,
    encoder: Path,
    images: Path,
    output: Path,
    execution: Execution,
    neurons: Path | None = None,
) -> None:
    """Encode all images once and write mean and variance.

    Args:
        spec: Everything but the images that determines them.
        encoder: Hugging Face folder of the encoder.
        images: Index of the prepared training images.
        output: Safetensors file to write.
        execution: How the job runs; ``sample_batch`` images per process are encoded together.
        neurons: Neuron file, for a specification with test-time registers.
    """
    autoencoder = load_autoencoder(spec.encoding, encoder=encoder, neurons=neurons, statistics=None, decoder=None)
    # The arithmetic of the release's encoder: float32 with TF32 matmuls where the GPU has them.
    set_arithmetic("tf32")
    with world() as process:
        statistics = compute_statistics(
            spec,
            autoencoder.to(process.device).encode,
            open_images(images),
            process,
            batch=execution.sample_batch,
            workers=execution.workers,
        )
        if process.is_main:
            statistics.save(output, spec)


if __name__ == "__main__":
    main()
