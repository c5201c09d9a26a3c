"""Specifications: what a rule hands to a command as JSON.

Each is everything that determines one result and nothing else, so that a changed entry of the configuration reruns
exactly the rows that it concerns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from dsr.config.base import Positive, Section
from dsr.config.denoisers import Denoiser
from dsr.config.encoders import Decoder, Discovery, Encoder, TestTimeRegisters, Ttr
from dsr.config.sampling import Guidance
from dsr.config.training import Flow, Recipe


class AutoencoderSpec(Section):
    """Encoder, TTR (null: none) and decoder."""

    encoder: Encoder
    passes: Ttr = "none"
    ttr: TestTimeRegisters | None
    decoder: Decoder
    image_size: Positive

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, S, S) of one latent."""
        return self.encoder.width, self.encoder.grid, self.encoder.grid


class StatisticsSpec(Section):
    """Everything that determines latent statistics."""

    autoencoder: AutoencoderSpec
    images: Positive
    flip: bool
    seed: int = 0
    """Seed of the flips."""


class DiscoverSpec(Section):
    """Everything that determines a list of register neurons."""

    autoencoder: AutoencoderSpec
    """Its TTR is how a first list intervenes in a recursive discovery; null in a first discovery."""
    discovery: Discovery
    seed: int = 0
    """Seed of the choice of images."""


class ModelSpec(Section):
    """A denoiser for latents of shape (channels, grid, grid)."""

    denoiser: Denoiser
    registers: int
    channels: Positive
    grid: Positive
    classes: Positive


class TrainSpec(Section):
    """Everything that determines the weights of a row."""

    row: str
    autoencoder: AutoencoderSpec
    model: ModelSpec
    flow: Flow
    recipe: Recipe
    images: Positive
    flip: bool

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; the last, incomplete batch is dropped."""
        return self.images // self.recipe.batch


class SampleSpec(Section):
    """Everything but the weights that determines a set of sampled images."""

    autoencoder: AutoencoderSpec
    model: ModelSpec
    flow: Flow
    images: Positive
    steps: int
    precision: Literal["fp32", "tf32", "bf16"]
    guidance: Guidance
    seed: int


def spec_hash(spec: BaseModel) -> str:
    """Short hash of a specification's content; equal content gives equal hashes."""
    canonical = json.dumps(spec.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested mappings, as 'key: old -> new'."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differing_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines
