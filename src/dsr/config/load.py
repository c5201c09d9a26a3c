"""The whole of `config.yaml`, checked, and the specifications that it gives."""

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from dsr.base.errors import UserError, problems
from dsr.config import specs
from dsr.config.agreement import disagreements
from dsr.config.base import Alternative, Name, Section
from dsr.config.encoders import Data, Decoder, Discovery, Encoder, TestTimeRegisters, Ttr
from dsr.config.execution import Execution, ParallelRequest, Request, Resources
from dsr.config.sampling import Evaluation, Figures, Guidance, Sampling, Table
from dsr.config.training import Denoiser, Flow, Recipe, Row


class Config(Section):
    """The whole of `config.yaml`."""

    name: str
    """Title of tables and report."""
    results: Annotated[str, Field(pattern=r"^[\w./+-]+$")]
    """Folder of all results; without blanks and signs that mean something to a shell."""
    artifacts: dict[str, str | None] = Field(default_factory=dict)
    """Your own copies, by id of `src/dsr/artifacts/manifest.yaml`, checked and linked to; null: downloaded."""
    sources: dict[str, Alternative] = Field(default_factory=dict)
    """Where to fetch an artifact instead, by id: `hub` is RAE's copy on the Hugging Face hub. Whether it has the same
    bytes is not known, so the lock file records it by itself."""
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
    rows: Annotated[dict[Name, Row], Field(min_length=1)]
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
    def _agreement(self) -> "Config":
        if wrong := disagreements(self):
            raise ValueError("\n  ".join(wrong))
        return self

    def request(self, rule: str) -> Request:
        """What the jobs of a rule ask of a cluster."""
        entry: Request | ParallelRequest = getattr(self.resources, rule)
        return entry if isinstance(entry, Request) else entry.for_processes(self.execution)

    @property
    def stand_ins(self) -> bool:
        """Whether the demo's encoders take the place of all that is downloaded but images."""
        hubs = (self.encoders[row.encoder].hub for row in self.rows.values())
        return self.data.source == "digits" or all(hub.startswith("stand-in/") for hub in hubs)

    @property
    def copies(self) -> dict[str, str | None]:
        """Your own copies by artifact id: those of `artifacts`, and the folders of `data`."""
        return {"imagenet-train": self.data.train, "imagenet-validation": self.data.validation, **self.artifacts}

    def artifact(self, name: str) -> str:
        """Id of what is fetched of an artifact, from the source that is chosen."""
        return f"{name}-{self.sources[name]}" if name in self.sources else name

    def encoding(self, encoder: str, ttr: Ttr) -> specs.EncoderSpec:
        """What turns images into latents, for one encoder with or without TTR."""
        return specs.EncoderSpec(
            edition=specs.ENCODE,
            encoder=self.encoders[encoder],
            ttr=ttr,
            ttr_options=self.ttr_options if ttr != "none" else None,
            image_size=self.data.image_size,
        )

    def autoencoder(self, encoder: str, ttr: Ttr) -> specs.AutoencoderSpec:
        """The same, and back."""
        return specs.AutoencoderSpec(**dict(self.encoding(encoder, ttr)), decoder=self.decoder)

    def statistics(self, encoder: str, ttr: Ttr) -> specs.StatisticsSpec:
        """Everything that determines the latent statistics of an encoder with or without TTR."""
        data = self.data
        return specs.StatisticsSpec(encoding=self.encoding(encoder, ttr), images=data.train_images, flip=data.flip)

    def discover(self, encoder: str, ttr: Ttr) -> specs.DiscoverSpec:
        """Everything that determines an encoder's register neurons; a recursive discovery builds on a single one."""
        encoding = self.encoding(encoder, "single" if ttr == "recursive" else "none")
        own = self.encoders[encoder].norm_threshold
        discovery = self.discovery.model_copy(update={"norm_threshold": own} if own else {})
        return specs.DiscoverSpec(edition=specs.DISCOVER, encoding=encoding, discovery=discovery)

    def model(self, row: str) -> specs.ModelSpec:
        """Return the denoiser of a row."""
        entry = self.rows[row]
        encoder = self.encoders[entry.encoder]
        return specs.ModelSpec(
            denoiser=self.denoisers[entry.denoiser],
            registers=entry.registers,
            channels=encoder.width,
            grid=encoder.grid,
            classes=self.data.classes,
        )

    def epochs(self, row: str) -> tuple[int, ...]:
        """Epochs at which a row is scored; weights that were fetched have one."""
        weights = self.rows[row].fetched
        return (weights.epoch,) if weights else self.evaluation.epochs

    def drawn_epoch(self, row: str) -> int:
        """Epoch at which figures show a row: `figures.epoch` if it has that one, else its last."""
        epochs = self.epochs(row)
        return self.figures.epoch if self.figures.epoch in epochs else epochs[-1]

    def averages(self, row: str) -> tuple[float, ...]:
        """Decays of a row's moving averages; the first is the one that tables report. Of others' it may be unknown."""
        entry = self.rows[row]
        if entry.fetched:
            return (entry.fetched.ema,) if entry.fetched.ema else ()
        return self.recipes[entry.recipe or ""].ema

    def flow_of(self, row: str) -> Flow:
        """The flow of a row's denoiser; one that others trained may predict something else."""
        weights = self.rows[row].fetched
        return self.flow.model_copy(update={"prediction": weights.prediction}) if weights else self.flow

    def train(self, row: str) -> specs.TrainSpec:
        """Everything that determines the weights of a row that is trained."""
        entry = self.rows[row]
        return specs.TrainSpec(
            edition=specs.TRAIN,
            row=row,
            encoding=self.encoding(entry.encoder, entry.ttr),
            model=self.model(row),
            flow=self.flow,
            recipe=self.recipes[entry.recipe or ""],
            images=self.data.train_images,
            flip=self.data.flip,
            start=self.start(row),
        )

    def start(self, row: str) -> specs.StartSpec | None:
        """The weights that the training of a row begins with; none where they are drawn."""
        entry, weights = self.rows[row], self.rows[row].weights
        if weights is None:
            return None
        return specs.StartSpec(
            artifact=weights.artifact,
            classes=weights.classes or self.data.classes,
            registers=entry.registers if weights.registers is None else weights.registers,
        )

    def weights(self, row: str, epoch: int, decay: float | None = None) -> specs.WeightsSpec:
        """Where the weights of a row come from; without ``decay`` they are the reported moving average."""
        if fetched := self.rows[row].fetched:
            return specs.WeightsSpec(artifact=fetched.artifact)
        return specs.WeightsSpec(train=self.train(row), epoch=epoch, decay=decay or self.averages(row)[0])

    def sample(
        self,
        row: str,
        guidance: str | Guidance | None,
        seed: int,
        images: int | None = None,
        weights: specs.WeightsSpec | None = None,
    ) -> specs.SampleSpec:
        """Everything that determines images of a row: with a named guidance, any other, or (None) what a sweep chooses.

        ``images`` is their number if it is not `sampling.images`; ``weights`` are any if not given.
        """
        entry, sampling = self.rows[row], self.sampling
        return specs.SampleSpec(
            edition=specs.SAMPLE,
            weights=weights,
            autoencoder=self.autoencoder(entry.encoder, entry.ttr),
            model=self.model(row),
            flow=self.flow_of(row),
            images=images or sampling.images,
            steps=sampling.steps,
            precision=sampling.precision,
            guidance=sampling.guidance[guidance] if isinstance(guidance, str) else guidance,
            seed=seed,
        )

    def reconstruct(self, encoder: str, ttr: Ttr) -> specs.ReconstructSpec:
        """Everything that determines the reconstructions of an encoder with or without TTR."""
        return specs.ReconstructSpec(
            edition=specs.SAMPLE,
            autoencoder=self.autoencoder(encoder, ttr),
            images=self.data.validation_images,
            precision=self.sampling.precision,
        )

    def evaluate(self, samples: specs.SampleSpec | specs.ReconstructSpec) -> specs.EvaluateSpec:
        """Everything that determines the scores of samples but the reference."""
        return specs.EvaluateSpec(edition=specs.EVALUATE, samples=samples)

    def encoder_maps(self, encoder: str, ttr: Ttr) -> specs.EncoderMapsSpec:
        """Everything that determines an encoder's maps."""
        figures = self.figures
        return specs.EncoderMapsSpec(
            autoencoder=self.autoencoder(encoder, ttr), images=figures.images, folder=figures.folder
        )

    def denoiser_maps(self, row: str, epoch: int) -> specs.DenoiserMapsSpec:
        """Everything that determines the maps of a row's denoiser."""
        entry = self.rows[row]
        return specs.DenoiserMapsSpec(
            **dict(self.encoder_maps(entry.encoder, entry.ttr)),
            model=self.model(row),
            weights=self.weights(row, epoch),
            flow=self.flow_of(row),
            times=self.figures.times,
        )


REMOVED = {
    "discovery.highest_layer: *": "gone after version 0.1.0, because nothing used it; all layers are considered",
    "discovery.sparsity_filter: *": "gone after version 0.1.0, because nothing used it; it was off",
    "evaluation.neighbours: *": "gone after version 0.1.0; Precision and Recall have the protocol's 3 neighbours",
    "evaluation.split: *": "gone after version 0.1.0; the Inception Score has the protocol's splits of 5000 images",
    "published: *": "gone after version 0.1.0; published numbers stand beside what has the paper's settings",
    "recipes.*.encoder_half: *": "gone after version 0.1.0; with precision fp16 the encoder multiplies in float16 too",
    "sampling.precision: *'fp8'*": "gone after version 0.1.0, because its effect on FID was never measured; use bf16",
    "ttr: *": "called ttr_options after version 0.1.0, because `ttr` is the mode of a row",
}
"""Pattern of what is said of a key or value that an older configuration may have -> what is said instead."""


def load(raw: Mapping[str, Any]) -> Config:
    """Validate a parsed configuration.

    Raises:
        UserError: naming every wrong key, one a line.
    """
    try:
        return Config.model_validate_json(json.dumps({**raw, **_without_removed(raw)}))
    except ValidationError as error:
        lines = [_of_today(line) for line in problems(error)]
    raise UserError(
        "The configuration is not valid (`rules/config.schema.json` describes every key):\n  " + "\n  ".join(lines)
    )


def _without_removed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of named entries, without those that are null, as an overlay can only overwrite."""
    sections = {key: raw.get(key) for key in ("encoders", "denoisers", "recipes", "rows", "tables")}
    return {
        key: {name: entry for name, entry in section.items() if entry is not None}
        for key, section in sections.items()
        if isinstance(section, Mapping)
    }


def _of_today(line: str) -> str:
    said = (why for pattern, why in REMOVED.items() if fnmatchcase(line, pattern))
    return next((f"{line.partition(':')[0]}: {why}" for why in said), line)
