"""What a maps file is made from, as commands receive it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsr.config.base import Section, Share
from dsr.config.encoders import Ttr
from dsr.config.load import Config
from dsr.config.specs import AutoencoderSpec, ModelSpec, WeightsSpec
from dsr.config.training import Flow


@dataclass(frozen=True, kw_only=True)
class MapsFiles:
    """Files that maps are made from, and how."""

    output: Path
    """Npz file to write."""
    images: Path
    """Index of the prepared validation images."""
    encoder: Path
    """Hugging Face folder of the encoder."""
    decoder: Path
    """Decoder weights."""
    neurons: Path | None = None
    """Register neurons, with TTR."""
    threads: int = 1
    """CPU threads."""


@dataclass(frozen=True, kw_only=True)
class DenoiserMapsFiles(MapsFiles):
    """The same, and what a row's denoiser needs besides."""

    statistics: Path
    """Latent statistics."""
    weights: Path
    """Moving average of the row's weights."""


class EncoderMapsSpec(Section):
    """Maps of an encoder, with or without TTR."""

    autoencoder: AutoencoderSpec
    """Encoder, TTR and decoder."""
    images: tuple[int, ...]
    """Validation images, by index."""


class DenoiserMapsSpec(EncoderMapsSpec):
    """Maps of a row's denoiser."""

    model: ModelSpec
    """Denoiser."""
    weights: WeightsSpec | None = None
    """Its weights; null takes any."""
    flow: Flow
    """Path from latent to noise."""
    times: tuple[Share, ...]
    """Times t at which the denoiser is looked at."""
    seed: int = 0
    """Seed of the noise; an image has the same noise at every time and for every row of the same latent shape."""


def encoder_maps(config: Config, encoder: str, ttr: Ttr) -> EncoderMapsSpec:
    """Return the specification of an encoder's maps."""
    return EncoderMapsSpec(autoencoder=config.autoencoder(encoder, ttr), images=config.figures.images)


def denoiser_maps(config: Config, row: str, epoch: int) -> DenoiserMapsSpec:
    """Return the specification of a row's maps."""
    entry = config.rows[row]
    return DenoiserMapsSpec(
        autoencoder=config.autoencoder(entry.encoder, entry.ttr),
        model=config.model(row),
        weights=config.weights(row, epoch),
        flow=config.flow,
        images=config.figures.images,
        times=config.figures.times,
    )
