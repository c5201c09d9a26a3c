"""Latent statistics of prepared images, over any number of processes."""

from __future__ import annotations

import logging

import numpy as np

from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.base.randomness import uniforms
from dsr.config.specs import StatisticsSpec
from dsr.data.images import Images
from dsr.data.loading import pixel_batches
from dsr.data.order import rank_slice
from dsr.encoder.autoencoder import Autoencoder
from dsr.encoder.statistics import LatentStatistics

log = logging.getLogger(__name__)

LOG_EVERY = 100
"""Batches between two lines of the log."""


def compute_statistics(
    spec: StatisticsSpec, autoencoder: Autoencoder, images: Images, world: World, *, batch: int, workers: int = 0
) -> LatentStatistics:
    """Encode every image exactly once, mirrored where its own random number says so, and merge all processes.

    Args:
        spec: number of images, flip and seed.
        autoencoder: on the device of ``world``, without statistics.
        images: the training images.
        world: the processes; each takes one contiguous part of the images.
        batch: images per process that are encoded together.
        workers: data-loading workers per process.

    Raises:
        UserError: if there are more or fewer images than the specification says.
    """
    if len(images) != spec.images:
        raise UserError(f"--images: found {len(images)} images, but data.train_images says {spec.images}; correct one")
    flips = uniforms(spec.seed, "statistics-flip", 0, spec.images) < 0.5 if spec.flip else np.zeros(spec.images, bool)
    own = range(spec.images)[rank_slice(spec.images, world.rank, world.size)]
    statistics = LatentStatistics(spec.autoencoder.latent_shape, world.device)
    items = [(index, bool(flips[index])) for index in own]
    for number, pixels in enumerate(
        pixel_batches(images, items, batch=batch, device=world.device, workers=workers), start=1
    ):
        statistics.update(autoencoder.encode(pixels))
        if number % LOG_EVERY == 0:
            log.info("Encoded %d of %d images of this process", statistics.count, len(own))
    statistics.merge(world)
    return statistics
