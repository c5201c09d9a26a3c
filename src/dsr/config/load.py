"""The whole of `config.yaml`, checked, and the specifications that it gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from dsr.base.errors import problems
from dsr.config.agreement import disagreements
from dsr.config.base import ConfigurationError, Name, Section
from dsr.config.data import Data
from dsr.config.denoisers import Denoiser
from dsr.config.encoders import Decoder, Discovery, Encoder, TestTimeRegisters, Ttr
from dsr.config.execution import Execution, Resources
from dsr.config.sampling import Evaluation, Figures, Guidance, Sampling
from dsr.config.specs import (
    AutoencoderSpec,
    DiscoverSpec,
    EncoderSpec,
    ModelSpec,
    SampleSpec,
    StatisticsSpec,
    TrainSpec,
)
from dsr.config.tables import Table
from dsr.config.training import Flow, Recipe, Row


class Config(Section):
    """The whole of `config.yaml`."""

    name: str
    """Title of tables and report."""
    published: bool
    """Whether the published numbers are comparable with these results (not so at demo scale)."""
    results: Annotated[str, Field(pattern=r"^[\w./+-]+$")]
    """Folder of all results; without blanks and signs that mean something to a shell."""
    artifacts: dict[str, str | None] = Field(default_factory=dict)
    """Your own copies, by id of `src/dsr/artifacts/manifest.yaml`, checked and linked to; null: downloaded."""
    data: Data
    """The images."""
    encoders: dict[Name, Encoder]
    """Frozen image encoders, by id."""
    ttr_options: TestTimeRegisters
    """How test-time registers intervene."""
    discovery: Discovery
    """Register-neuron discovery."""
    decoder: Decoder
    """Pixel decoder, one shape for every encoder."""
    denoisers: dict[str, Denoiser]
    """Denoisers, by id."""
    flow: Flow
    """Path and time law."""
    recipes: dict[str, Recipe]
    """Training recipes, by id."""
    rows: dict[Name, Row]
    """The rows of the table, by id."""
    sampling: Sampling
    """Sampling."""
    evaluation: Evaluation
    """Evaluation."""
    figures: Figures
    """Figures."""
    tables: dict[Name, Table] = Field(default_factory=dict)
    """Tables besides the main one, by id: which rows each of them has."""
    execution: Execution
    """Execution."""
    resources: Resources
    """What jobs ask of a cluster."""

    @model_validator(mode="after")
    def _agreement(self) -> Config:
        wrong = disagreements(self)
        if wrong:
            raise ValueError("\n  ".join(wrong))
        return self

    def encoding(self, encoder: str, ttr: Ttr) -> EncoderSpec:
        """What turns images into latents, for one encoder with or without TTR."""
        return EncoderSpec(
            encoder=self.encoders[encoder],
            ttr=ttr,
            ttr_options=self.ttr_options if ttr != "none" else None,
            image_size=self.data.image_size,
        )

    def autoencoder(self, encoder: str, ttr: Ttr) -> AutoencoderSpec:
        """The same, and back."""
        return AutoencoderSpec(**dict(self.encoding(encoder, ttr)), decoder=self.decoder)

    def statistics(self, encoder: str, ttr: Ttr) -> StatisticsSpec:
        """Everything that determines the latent statistics of an encoder with or without TTR."""
        return StatisticsSpec(encoding=self.encoding(encoder, ttr), images=self.data.train_images, flip=self.data.flip)

    def discover(self, encoder: str, ttr: Ttr) -> DiscoverSpec:
        """Everything that determines an encoder's register neurons; a recursive discovery builds on a single one."""
        first: Ttr = "single" if ttr == "recursive" else "none"
        return DiscoverSpec(encoding=self.encoding(encoder, first), discovery=self.discovery)

    def model(self, row: str) -> ModelSpec:
        """Return the denoiser of a row."""
        entry = self.rows[row]
        encoder = self.encoders[entry.encoder]
        return ModelSpec(
            denoiser=self.denoisers[entry.denoiser],
            registers=entry.registers,
            channels=encoder.width,
            grid=encoder.grid,
            classes=self.data.classes,
        )

    def epochs(self, row: str) -> tuple[int, ...]:
        """Epochs at which a row is scored; weights that were fetched have one."""
        weights = self.rows[row].weights
        return (weights.epoch,) if weights else self.evaluation.epochs

    def drawn_epoch(self, row: str) -> int:
        """Epoch at which figures show a row: `figures.epoch` if it has that one, else its last."""
        epochs = self.epochs(row)
        return self.figures.epoch if self.figures.epoch in epochs else epochs[-1]

    def averages(self, row: str) -> tuple[float, ...]:
        """Decays of a row's moving averages; the first is the one that tables report."""
        entry = self.rows[row]
        return (entry.weights.ema,) if entry.weights else self.recipes[entry.recipe or ""].ema

    def train(self, row: str) -> TrainSpec:
        """Everything that determines the weights of a row.

        Raises:
            ValueError: if its weights are fetched.
        """
        entry = self.rows[row]
        if entry.recipe is None:
            raise ValueError(f"rows.{row} is not trained: its weights are fetched")
        return TrainSpec(
            row=row,
            encoding=self.encoding(entry.encoder, entry.ttr),
            model=self.model(row),
            flow=self.flow,
            recipe=self.recipes[entry.recipe],
            images=self.data.train_images,
            flip=self.data.flip,
        )

    def sample(self, row: str, guidance: str | Guidance, seed: int, images: int | None = None) -> SampleSpec:
        """Everything but the weights that determines images of a row: with a named guidance setting or any other.

        ``images`` is their number if it is not `sampling.images`.
        """
        entry = self.rows[row]
        return SampleSpec(
            autoencoder=self.autoencoder(entry.encoder, entry.ttr),
            model=self.model(row),
            flow=self.flow,
            images=images or self.sampling.images,
            steps=self.sampling.steps,
            precision=self.sampling.precision,
            guidance=self.sampling.guidance[guidance] if isinstance(guidance, str) else guidance,
            seed=seed,
        )


REMOVED = {
    "discovery.highest_layer": "gone after version 0.1.0, because nothing used it; all layers are considered",
    "discovery.sparsity_filter": "gone after version 0.1.0, because nothing used it; it was off",
    "recipes.*.encoder_half": "gone after version 0.1.0; with precision fp16 the encoder multiplies in float16 too",
    "sampling.precision=fp8": "gone after version 0.1.0, because its effect on FID was never measured; use bf16",
    "ttr": "called ttr_options after version 0.1.0, because `ttr` is the mode of a row",
}
"""Dotted key (* is any), or key=value, that a configuration can no longer set -> since when, why, and what to do."""


def load(raw: Mapping[str, Any]) -> Config:
    """Validate a parsed configuration.

    Raises:
        ConfigurationError: naming every wrong key, one a line.
    """
    wrong = [f"{key}: {why}" for key, why in REMOVED.items() if _sets(raw, key)]
    try:
        if not wrong:
            return Config.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        wrong = problems(error)
    raise ConfigurationError(
        "The configuration is not valid (`rules/config.schema.json` describes every key):\n  " + "\n  ".join(wrong)
    )


def _sets(raw: Any, entry: str) -> bool:
    """Whether a parsed configuration has a dotted key, or that key with a value ('key=value')."""
    key, _, value = entry.partition("=")
    found = [raw]
    for part in key.split("."):
        inner = [(name, child) for one in found if isinstance(one, Mapping) for name, child in one.items()]
        found = [child for name, child in inner if part in ("*", name)]
    return any(not value or str(one) == value for one in found)
