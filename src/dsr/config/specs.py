"""Specifications: what a rule hands to a command as JSON.

Each is everything that determines one result and nothing else, so that a changed entry of the configuration reruns
exactly the rows that it concerns. Keys at their defaults are left out of it, so that a key that is added reruns nothing
where it is not used; a default therefore never changes its meaning. What is made records its specification, and
whatever uses it compares (`require`).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dsr.base.errors import UserError
from dsr.config.base import Positive, Precision, Section, Share
from dsr.config.encoders import Decoder, Discovery, Encoder, TestTimeRegisters, Ttr
from dsr.config.sampling import Guidance
from dsr.config.training import Denoiser, Flow, Recipe

ENCODE, DISCOVER, TRAIN, SAMPLE, EVALUATE = 1, 1, 1, 1, 1
"""Edition of each stage's arithmetic: raised when the same specification gives other results, so that what was made
before is made anew. `tests/unit/test_editions.py` fails if results change and it was not raised."""


class Stage(Section):
    """A stage whose arithmetic has editions."""

    edition: int = 1
    """Edition of its arithmetic: one of the constants above."""


class EncoderSpec(Stage):
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


class DiscoverSpec(Stage):
    """Everything that determines a list of register neurons."""

    encoding: EncoderSpec
    """Its TTR is how a first list intervenes in a recursive discovery; null in a first discovery."""
    discovery: Discovery


class ModelSpec(Section):
    """A denoiser for latents of shape (channels, grid, grid)."""

    denoiser: Denoiser
    registers: int
    channels: Positive
    grid: Positive
    classes: Positive


class StartSpec(Section):
    """Weights that training begins with."""

    artifact: str
    """Id in `src/dsr/artifacts/manifest.yaml`."""
    classes: Positive
    registers: int

    def model(self, own: ModelSpec) -> ModelSpec:
        """The denoiser that they are of, where ``own`` is the one that is trained."""
        return own.model_copy(update={"classes": self.classes, "registers": self.registers})


class TrainSpec(Stage):
    """Everything that determines the weights of a row."""

    row: str
    encoding: EncoderSpec
    model: ModelSpec
    flow: Flow
    recipe: Recipe
    images: Positive
    flip: bool
    start: StartSpec | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; the last, incomplete batch is dropped."""
        return self.images // self.recipe.batch


class WeightsSpec(Section):
    """Where weights come from: trained here (all but the last), or fetched."""

    train: TrainSpec | None = None
    epoch: Positive | None = None
    """Epoch after which they were taken."""
    decay: float | None = None
    """Decay of the moving average that they are."""
    artifact: str | None = None
    """Id in `src/dsr/artifacts/manifest.yaml`."""


class SampleSpec(Stage):
    """Everything that determines a set of sampled images."""

    weights: WeightsSpec | None = None
    """The denoiser's weights; null takes any."""
    autoencoder: AutoencoderSpec
    model: ModelSpec
    flow: Flow
    images: Positive
    steps: int
    precision: Precision
    guidance: Guidance | None
    """Null is what a sweep chooses, which comes in a file."""
    seed: int


class ReconstructSpec(Stage):
    """Everything that determines the validation images as an autoencoder gives them back."""

    autoencoder: AutoencoderSpec
    images: Positive
    precision: Precision
    """Arithmetic of the decoder; the encoder's is that of training."""


class EvaluateSpec(Stage):
    """Everything that determines scores but the reference."""

    samples: SampleSpec | ReconstructSpec | None = None
    """The samples, or reconstructions; null takes any."""


class EncoderMapsSpec(Section):
    """Token maps of an encoder, with or without TTR."""

    autoencoder: AutoencoderSpec
    """Encoder, TTR and decoder."""
    images: tuple[int, ...]
    """Validation images, by index; or those of a folder."""
    folder: str | None = None
    """Path of that folder."""


class DenoiserMapsSpec(EncoderMapsSpec):
    """Token maps of a row's denoiser."""

    model: ModelSpec
    weights: WeightsSpec | None = None
    """Its weights; null takes any."""
    flow: Flow
    times: tuple[Share, ...]
    """Times t at which the denoiser is looked at."""


def content(spec: BaseModel) -> dict[str, Any]:
    """Everything in a specification that is not at its default, as JSON has it."""
    return spec.model_dump(mode="json", exclude_defaults=True)


def spec_json(spec: BaseModel) -> str:
    """A specification as a command receives it."""
    return json.dumps(content(spec), sort_keys=True)


def spec_hash(spec: BaseModel) -> str:
    """Short hash of a specification's content; equal content gives equal hashes."""
    return json_hash(content(spec))


def json_hash(content: Mapping[str, Any]) -> str:
    """The same of the content itself, as files record it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between the contents of two specifications, as 'key: old -> new'."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key, "default"), new.get(key, "default")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differing_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before!s:.80} -> {after!s:.80}")
    return lines


def require(source: Path, recorded: Mapping[str, Any], asked: BaseModel) -> None:
    """Compare what ``source`` records of its specification with the one that is asked for.

    Raises:
        UserError: if they differ, naming the file and the keys.
    """
    known = {key: value for key, value in recorded.items() if key in type(asked).model_fields}
    if differences := differing_keys(known, content(asked)):
        raise UserError(
            f"{source} was made with other settings than the configuration's ({'; '.join(differences[:3])}"
            f"{'; ...' if len(differences) > 3 else ''}); make it again, or restore the settings"
        )
