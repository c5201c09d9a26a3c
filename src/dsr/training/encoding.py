"""Whether the encoder of a run may multiply in float16."""

import logging

from dsr.base.distributed import World
from dsr.config.specs import TrainSpec
from dsr.data.images import Images
from dsr.data.loading import pixel_batches
from dsr.encoder.autoencoder import Autoencoder
from dsr.training.batches import items

log = logging.getLogger(__name__)

TRIED = 32
"""Images that are encoded in both ways."""
LARGEST = 2e-3
"""Largest relative difference of their latents; on random weights float16 and TF32 are each 1e-3 off float32."""


def use_half_if_close(autoencoder: Autoencoder, spec: TrainSpec, images: Images, world: World) -> None:
    """Let the encoder multiply in float16, unless its latents would leave TF32's; then a warning says so.

    The images are those of the run's first step, wherever it goes on, so that every process of every start decides
    alike.
    """
    tried = items(spec, 0, slice(TRIED))
    pixels = next(pixel_batches(images, tried, batch=TRIED, device=world.device))
    exact = autoencoder.raw(pixels)
    autoencoder.in_half = True
    error = float((autoencoder.raw(pixels) - exact).norm() / exact.norm())
    # NaN is not close either.
    autoencoder.in_half = not world.any(not error <= LARGEST)
    if world.is_main and not autoencoder.in_half:
        log.warning("The encoder stays in TF32: float16 would change its latents by %.1e (at most %g)", error, LARGEST)
