"""Specifications: what a rule hands to a command as JSON.

Each is everything that determines one result and nothing else, so that a changed entry of the configuration reruns
exactly the rows that it concerns. Keys at their defaults are left out of it, so that a key that is added reruns nothing
where it is not used; a default therefore never changes its meaning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from dsr.config.base import Positive, Precision, Section
from dsr.config.denoisers import Denoiser
from dsr.config.encoders import Decoder, Discovery, Encoder, TestTimeRegisters, Ttr
from dsr.config.sampling import Guidance
from dsr.config.training import Flow, Recipe


class EncoderSpec(Section):
    """What turns images into latents: the encoding half of an autoencoder."""

    encoder: Encoder
    ttr: Ttr = "none"
    """Test-time registers, as in a row."""
    ttr_options: TestTimeRegisters | None
    """How they intervene; null: there are none."""
    image_size: Positive

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, S, S) of one latent."""
        return self.encoder.width, self.encoder.grid, self.encoder.grid


class AutoencoderSpec(EncoderSpec):
    """What turns images into latents and back."""

    decoder: Decoder


class StatisticsSpec(Section):
    """Everything that determines latent statistics."""

    encoding: EncoderSpec
    images: Positive
    flip: bool
    seed: int = 0
    """Seed of the flips."""


class DiscoverSpec(Section):
    """Everything that determines a list of register neurons."""

    encoding: EncoderSpec
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
    encoding: EncoderSpec
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
    precision: Precision
    guidance: Guidance
    seed: int


def content(spec: BaseModel) -> dict[str, Any]:
    """Everything in a specification that is not at its default, as JSON has it."""
    return spec.model_dump(mode="json", exclude_defaults=True)


def spec_json(spec: BaseModel) -> str:
    """A specification as a command receives it."""
    return json.dumps(content(spec), sort_keys=True)


def spec_hash(spec: BaseModel) -> str:
    """Short hash of a specification's content; equal content gives equal hashes."""
    return hashlib.sha256(spec_json(spec).encode()).hexdigest()[:12]


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between the contents of two specifications, as 'key: old -> new'."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key, "default"), new.get(key, "default")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differing_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines
