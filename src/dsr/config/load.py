"""The whole of `config.yaml`, checked, and the specifications that it gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from dsr.config.agreement import check_guidance, check_images
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
from dsr.config.tables import Table, published_rows
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
    ttr: TestTimeRegisters
    """Test-time registers."""
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
    def _references(self) -> Config:
        for name, row in self.rows.items():
            for key, known in (
                ("encoder", self.encoders),
                ("denoiser", self.denoisers),
                ("recipe", self.recipes),
            ):
                value = getattr(row, key)
                if value is not None and value not in known:
                    raise ValueError(f"rows.{name}.{key}: '{value}' is not one of {', '.join(known)}")
            if row.compare_with is not None and row.compare_with not in published_rows() | set(self.rows):
                raise ValueError(
                    f"rows.{name}.compare_with: '{row.compare_with}' is neither one of `rows` nor a row of"
                    " src/dsr/report/published.csv"
                )
            batch = self.recipes[row.recipe].batch if row.recipe else 0
            if batch > self.data.train_images:
                raise ValueError(
                    f"recipes.{row.recipe}.batch: {batch} is more than the {self.data.train_images} training images"
                )
        per_step = self.execution.processes * self.execution.nodes
        for name, recipe in self.recipes.items():
            per_process = recipe.batch // per_step
            if recipe.batch % per_step or per_process % (self.execution.micro_batch or per_process):
                raise ValueError(
                    f"recipes.{name}.batch: {recipe.batch} is not divisible by {per_step} processes"
                    f" x micro_batch {self.execution.micro_batch or 'automatic'} (see execution)"
                )
        for rule in ("statistics", "train", "sample"):
            gpus = getattr(self.resources, rule).gpus
            if 0 < gpus < self.execution.processes:
                raise ValueError(
                    f"resources.{rule}.gpus: {gpus} is fewer than execution.processes ({self.execution.processes});"
                    " every process needs a GPU of its own (or give 0 to compute on CPUs)"
                )
        if self.sampling.images % self.data.classes:
            raise ValueError(
                f"sampling.images: {self.sampling.images} is not a multiple of {self.data.classes} classes"
            )
        if self.data.source == "digits" and "adm" in self.evaluation.references:
            raise ValueError("evaluation.references: adm is a reference for ImageNet and not for digits")
        if self.data.source == "digits" and not self.data.prepared:
            raise ValueError("data.prepared: the demo's digits are always prepared; leave it at true")
        if self.data.source == "imagefolder" and not (self.data.train and self.data.validation):
            raise ValueError("data.source is imagefolder: give the paths data.train and data.validation")
        return self

    @model_validator(mode="after")
    def _sweep_and_figures(self) -> Config:
        sweep = self.sampling.sweep
        if sweep is not None and sweep.images % self.data.classes:
            raise ValueError(f"sampling.sweep.images: {sweep.images} is not a multiple of {self.data.classes} classes")
        for place, names in (
            ("sampling.sweep.rows", sweep.rows if sweep else ()),
            ("figures.rows", self.figures.rows or ()),
        ):
            for name in names:
                if name not in self.rows:
                    raise ValueError(f"{place}: '{name}' is not one of {', '.join(self.rows)}")
        return self

    @model_validator(mode="after")
    def _drawn(self) -> Config:
        figures, rows = self.figures, self.figures.rows or tuple(self.rows)
        beyond = [index for index in figures.images if index >= self.data.validation_images]
        if beyond:
            raise ValueError(
                f"figures.images: {beyond[0]} is not below the {self.data.validation_images} validation images"
            )
        if figures.epoch and not all(self.rows[row].weights or figures.epoch in self.epochs(row) for row in rows):
            raise ValueError(f"figures.epoch: {figures.epoch} is not one of evaluation.epochs")
        deepest = max(self.denoisers[self.rows[row].denoiser].blocks for row in rows)
        if figures.layers and figures.layers[-1] > deepest:
            raise ValueError(
                f"figures.layers: {figures.layers[-1]} is beyond the last block ({deepest}) of every denoiser drawn;"
                " give fewer, or null for equal shares of the depth"
            )
        return self

    @model_validator(mode="after")
    def _agreement(self) -> Config:
        check_guidance(self.sampling, self.rows, self.denoisers)
        check_images(self.data, self.discovery, self.rows, self.encoders)
        return self

    @model_validator(mode="after")
    def _images_given_once(self) -> Config:
        for split in ("train", "validation"):
            if self.data.source == "imagefolder" and self.artifacts.get(f"imagenet-{split}"):
                raise ValueError(
                    f"artifacts.imagenet-{split}: data.source is imagefolder, which takes data.{split}; leave one out"
                )
        return self

    def encoding(self, encoder: str, ttr: Ttr) -> EncoderSpec:
        """What turns images into latents, for one encoder with or without TTR."""
        return EncoderSpec(
            encoder=self.encoders[encoder],
            passes=ttr,
            ttr=self.ttr if ttr != "none" else None,
            image_size=self.data.image_size,
        )

    def autoencoder(self, encoder: str, ttr: Ttr) -> AutoencoderSpec:
        """The same, and back."""
        return AutoencoderSpec(**dict(self.encoding(encoder, ttr)), decoder=self.decoder)

    def statistics(self, encoder: str, ttr: Ttr) -> StatisticsSpec:
        """Everything that determines the latent statistics of an encoder with or without TTR."""
        return StatisticsSpec(
            autoencoder=self.encoding(encoder, ttr), images=self.data.train_images, flip=self.data.flip
        )

    def discover(self, encoder: str, ttr: Ttr) -> DiscoverSpec:
        """Everything that determines an encoder's register neurons; a recursive discovery builds on a single one."""
        first: Ttr = "single" if ttr == "recursive" else "none"
        return DiscoverSpec(autoencoder=self.encoding(encoder, first), discovery=self.discovery)

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
            autoencoder=self.encoding(entry.encoder, entry.ttr),
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


def load(raw: Mapping[str, Any]) -> Config:
    """Validate a parsed configuration.

    Raises:
        ConfigurationError: naming every wrong key, one a line.
    """
    try:
        return Config.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "extra_forbidden":
                message = "unknown key (misspelt? `rules/config.schema.json` lists the known ones)"
            elif problem["type"] == "missing":
                message = "missing"
            else:
                given = "" if isinstance(problem["input"], dict) else f" (given: {problem['input']!r})"
                message = f"{message}{given}"
            lines.append(f"  {place}: {message}" if place else f"  {message}")
        raise ConfigurationError("The configuration is not valid:\n" + "\n".join(lines)) from None
