"""The validation images through encoder, statistics and decoder, as images go in every row, but without a denoiser."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dsr.accel.device import HALF, autocast, round_matmul_weights, set_arithmetic, usable_precision
from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.config.specs import ReconstructSpec
from dsr.data.images import open_images
from dsr.data.loading import pixel_batches
from dsr.encoder.autoencoder import load_autoencoder
from dsr.encoder.statistics import LatentStatistics
from dsr.sampling.generate import SetJob, complete
from dsr.sampling.misfits import misfits
from dsr.sampling.sampler import Drawing, drawing

TRIED = 300
"""Images at most that statistics and decoder are tried on before all are reconstructed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job(SetJob):
    """Images to reconstruct. Only ``spec`` and the contents of the input files determine the reconstructions."""

    spec: ReconstructSpec
    """What determines the reconstructions, besides the contents of the files."""
    encoder: Path
    """Hugging Face folder of the encoder."""
    images: Path
    """Index of the prepared validation images."""
    neurons: Path | None = None
    """Register neurons, with TTR."""


class Reconstructor:
    """Reconstructs images; image i depends on image i alone.

    Raises:
        UserError: if a file is missing or does not fit the specification or the other files.
    """

    def __init__(self, job: Job, device: torch.device) -> None:
        self._device, self._images = device, open_images(job.images)
        self._shape = job.spec.autoencoder.latent_shape
        if len(self._images) != job.spec.images:
            raise UserError(
                f"{job.images}: {len(self._images)} images, but data.validation_images is {job.spec.images}"
            )
        self._autoencoder = load_autoencoder(
            job.spec.autoencoder,
            encoder=job.encoder,
            neurons=job.neurons,
            statistics=job.statistics,
            decoder=job.decoder,
        ).to(device)
        self._precision = usable_precision(job.spec.precision, device)
        if self._precision in HALF and self._autoencoder.decoder is not None:
            round_matmul_weights(self._autoencoder.decoder, HALF[self._precision])

    def start(self, numbers: Sequence[int]) -> Drawing:
        """Begin to reconstruct the images of these numbers; what it returns gives them when they are there."""
        return drawing(self.decode(self._autoencoder.encode(self.pixels(numbers))), numbers)

    def pixels(self, numbers: Sequence[int]) -> torch.Tensor:
        """Read images, (n, 3, H, W) floats in [0, 1]."""
        items = [(number, False) for number in numbers]
        return next(pixel_batches(self._images, items, batch=len(items), device=self._device))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents as those of a denoiser are, (n, 3, H, W)."""
        with autocast(self._device, self._precision):
            return self._autoencoder.decode(latents)

    def fit(self, batch: int) -> dict[str, float]:
        """Measure on images of all classes how well statistics and decoder fit the encoder.

        ``statistics_distance`` is that of the normalised latents from mean 0 and deviation 1, squared and averaged over
        channels and positions; of the right statistics it is about 1.5 over the number of images.
        ``unexplained`` is the reconstructions' squared error over that of images that are one colour, their mean.
        """
        statistics = LatentStatistics(self._shape, self._device)
        error, variance = 0.0, 0.0
        # They are in the order of classes.
        chosen = range(0, len(self._images), -(-len(self._images) // TRIED))
        for first in range(0, len(chosen), batch):
            pixels = self.pixels(chosen[first : first + batch])
            latents = self._autoencoder.encode(pixels)
            statistics.update(latents)
            decoded = self.decode(latents).float().clamp(0, 1)
            error += float((decoded - pixels).square().sum())
            variance += float((pixels - pixels.mean((2, 3), keepdim=True)).square().sum())
        distance = statistics.mean.square() + (statistics.variance.sqrt() - 1).square()
        return {"statistics_distance": float(distance.mean()), "unexplained": error / variance}


def reconstruct(job: Job, world: World) -> None:
    """Reconstruct what is missing of the images and publish them; after an interruption, the same call goes on.

    Raises:
        UserError: if an input file is missing or does not fit the specification.
    """
    set_arithmetic(job.spec.precision, job.execution.threads)
    own = Reconstructor(job, world.device)
    made: dict[str, Any] = {}
    if world.is_main:
        made = own.fit(job.execution.sample_batch)
        for line in misfits(made, job.statistics, job.decoder):
            log.warning("%s", line)
    encoder = job.encoder / "model.safetensors"
    origin = job.origin(job.spec, world.device, encoder=encoder, neurons=job.neurons, images=job.images)
    complete(job, job.spec, own.start, origin, made, world)
