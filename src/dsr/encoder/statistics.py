"""Mean and variance of latents per channel and position, and the normalisation that uses them."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.base.randomness import rank_slice, uniforms
from dsr.base.tensors import assign, read, write
from dsr.config.specs import StatisticsSpec, content
from dsr.data.images import Images
from dsr.data.loading import pixel_batches

log = logging.getLogger(__name__)

EPS = 1e-5
"""Added to the variance before the square root."""


class LatentStatistics:
    """Streaming mean and biased variance over latents (C, S, S), in float64.

    Batches are merged by count, mean and sum of squared deviations (Welford), so that a channel with a large mean and
    a small variance keeps its digits, which E[x²] - E[x]² would lose.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        self.count = 0
        """Latents seen."""
        self.mean = torch.zeros(shape, dtype=torch.float64, device=device)
        """Mean (C, S, S)."""
        self._squares = torch.zeros_like(self.mean)

    def update(self, latents: torch.Tensor) -> None:
        """Add a batch (B, C, S, S)."""
        latents = latents.double()
        batch = len(latents)
        mean = latents.mean(dim=0)
        squares = (latents - mean).square().sum(dim=0)
        total = self.count + batch
        delta = mean - self.mean
        self._squares += squares + delta.square() * (self.count * batch / total)
        self.mean += delta * (batch / total)
        self.count = total

    def merge(self, world: World) -> None:
        """Merge the statistics of all processes; afterwards every process has those of all latents."""
        own = torch.tensor(float(self.count), dtype=torch.float64, device=self.mean.device)
        total = world.sum(own.clone())
        mean = world.sum(self.mean * (own / total))
        self._squares = world.sum(self._squares + own * (self.mean - mean).square())
        self.mean = mean
        self.count = int(total.item())

    @property
    def variance(self) -> torch.Tensor:
        """Biased variance (C, S, S), float64."""
        return self._squares / self.count

    def save(self, path: Path, spec: StatisticsSpec | None = None) -> None:
        """Write mean and variance as float32, with the count and, if there is one, the specification."""
        about = {"count": self.count, "spec": content(spec) if spec else None}
        write(path, {"mean": self.mean.float().cpu(), "var": self.variance.float().cpu()}, about)


def compute_statistics(
    spec: StatisticsSpec,
    encode: Callable[[torch.Tensor], torch.Tensor],
    images: Images,
    world: World,
    *,
    batch: int,
    workers: int = 0,
) -> LatentStatistics:
    """Encode every image exactly once, mirrored where its own random number says so, and merge all processes.

    ``encode`` maps pixels (n, 3, H, W) in [0, 1] to raw latents (n, C, S, S). Each process takes one contiguous part of
    the images, ``batch`` at a time.

    Raises:
        UserError: if there are more or fewer images than the specification says.
    """
    if len(images) != spec.images:
        raise UserError(f"--images: found {len(images)} images, but data.train_images says {spec.images}; correct one")
    flips = uniforms(0, "statistics-flip", 0, spec.images) < 0.5 if spec.flip else np.zeros(spec.images, bool)
    own = range(spec.images)[rank_slice(spec.images, world.rank, world.size)]
    statistics = LatentStatistics(spec.encoding.latent_shape, world.device)
    items = [(index, bool(flips[index])) for index in own]
    batches = pixel_batches(images, items, batch=batch, device=world.device, workers=workers)
    for number, pixels in enumerate(batches, start=1):
        statistics.update(encode(pixels))
        if number % 100 == 0:
            log.info("Encoded %d of %d images of this process", statistics.count, len(own))
    statistics.merge(world)
    return statistics


class Normaliser(nn.Module):
    """Standardises latents: (z - mean) / sqrt(var + 1e-5), and back; mean and variance are (C, S, S)."""

    mean: torch.Tensor
    var: torch.Tensor

    def __init__(self, mean: torch.Tensor, var: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("var", var.float())

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Raw latents (B, C, S, S) to normalised ones."""
        return (latents - self.mean) / (self.var + EPS).sqrt()

    def inverse(self, latents: torch.Tensor) -> torch.Tensor:
        """Normalised latents (B, C, S, S) to raw ones, in float32."""
        return latents.float() * (self.var + EPS).sqrt() + self.mean

    @classmethod
    def load(cls, path: Path, shape: tuple[int, int, int]) -> "Normaliser":
        """Read a statistics file and check that it is for latents of this shape.

        Raises:
            UserError: if the file is missing, is of another kind or shape, or holds impossible values.
        """
        with torch.device("meta"):
            normaliser = cls(torch.empty(shape), torch.empty(shape))
        assign(normaliser, read(path), path)
        mean, var = normaliser.mean, normaliser.var
        if not (mean.isfinite().all() and var.isfinite().all() and (var >= 0).all()):
            raise UserError(f"{path}: contains values that are not finite, or negative variances; compute it again")
        return normaliser
