"""The one typed configuration: what `config.yaml` may say, and the specifications that commands receive.

The first half mirrors the file's sections. The second half (`...Spec`) is what a rule hands to a command as
JSON: everything that determines one result and nothing else, so that a changed entry reruns exactly the rows
that it concerns.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dsr.errors import UserError

Ttr = Literal["none", "single", "recursive"]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class ConfigurationError(UserError):
    """The configuration is wrong; the message names the key, what was expected and what to do."""


class Section(BaseModel):
    """Base of every section: unknown keys are refused, types are strict, values are immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Data(Section):
    """The images that everything is trained on and compared with."""

    source: Literal["imagefolder", "kaggle", "digits"]
    """Where images come from: existing ImageFolders, the Kaggle competition, or the demo's handwritten digits."""
    train: str | None = None
    """Existing ImageFolder of training images (source: imagefolder)."""
    validation: str | None = None
    """Existing ImageFolder of validation images (source: imagefolder)."""
    classes: Positive
    """Number of classes; the label after the last one is the null label."""
    train_images: Positive
    """Training images; with the batch it fixes the steps of an epoch."""
    validation_images: Positive
    """Validation images; the evaluation reference is made of them."""
    image_size: Positive
    """Side of the prepared square images in pixels (ADM centre crop)."""
    shards: Positive
    """Files that the prepared training images are spread over; each is one job."""
    flip: bool = True
    """Flip half of the training images horizontally."""


class Encoder(Section):
    """A frozen image encoder. To add one, add an entry here; a new family also needs a class in `dsr/encoder`."""

    family: Literal["siglip2", "dinov2"]
    """Which class in `dsr/encoder` loads it."""
    hub: str
    """Model id on the Hugging Face hub."""
    revision: str
    """Revision (commit or tag) on the hub."""
    input_size: Positive
    """Side of the square image that the encoder sees; other sizes are resized (bicubic, no antialiasing)."""
    patch_size: Positive
    """Side of a patch in pixels of the encoder's input."""
    width: Positive
    """Width of a token: the number of latent channels."""
    neurons: Literal["released", "discovered"]
    """Register neurons: the release's lists, or found by the workflow on `discovery.images` images.

    Also with `released`, those that the release does not have (So400M with a single pass) are found by the workflow."""
    statistics: Literal["released", "computed"]
    """Latent statistics: the release's files, or computed by the workflow over the training images.

    Also with `released`, those that the release does not have (So400M with a single pass) are computed."""

    @model_validator(mode="after")
    def _whole_patches(self) -> Encoder:
        if self.input_size % self.patch_size:
            raise ValueError(f"input_size {self.input_size} is not a multiple of patch_size {self.patch_size}")
        return self

    @property
    def grid(self) -> int:
        """Tokens along one side."""
        return self.input_size // self.patch_size


class TestTimeRegisters(Section):
    """How test-time registers (TTR) intervene. The defaults are the release's behaviour, quirks included."""

    registers: Positive = 1
    """Register tokens appended to the encoder's sequence."""
    maximum: Literal["shared", "per-neuron"] = "shared"
    """The release gives all neurons of a layer one shared extreme value; per-neuron gives each its own."""
    first_token: Literal["kept", "zeroed"] = "kept"
    """The release never zeroes token 0 (its code expects a CLS token there; SigLIP2 has none)."""


class Discovery(Section):
    """How register neurons are found (Section 3 of the test-time-register method)."""

    images: Positive
    """Training images looked at."""
    norm_threshold: Annotated[float, Field(gt=0)]
    """A token is an outlier when the L2 norm of the detection layer's output exceeds this."""
    layer: int = -1
    """Detection layer; -1 is the last block, before the final LayerNorm."""
    top_k: Positive
    """Neurons kept per pass."""
    highest_layer: int | None = None
    """Neurons in layers above this one are not considered; null considers all."""
    sparsity_filter: bool = False
    """Count a neuron only where at least half of the tokens have an activation below 0.5."""


class Decoder(Section):
    """The ViT that decodes latents to pixels; trained by others (paper) or by the demo."""

    hidden_size: Positive
    """Width of a token."""
    depth: Positive
    """Number of blocks."""
    num_heads: Positive
    """Attention heads."""
    intermediate_size: Positive
    """Hidden width of the MLP."""


class _Denoiser(Section):
    register_start: Annotated[int, Field(ge=0)] = 0
    """Diffusion registers enter before this block (0-based)."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width of a token, before SwiGLU's 2/3."""
    class_dropout: Share = 0.1
    """Probability that a training label becomes the null label."""


class Dit(_Denoiser):
    """LightningDiT: one stack of blocks."""

    kind: Literal["dit"]
    """Which backbone."""
    hidden_size: Positive
    """Width of a token."""
    depth: Positive
    """Number of blocks."""
    num_heads: Positive
    """Attention heads."""

    @model_validator(mode="after")
    def _consistent(self) -> Dit:
        _check_stack(self.hidden_size, self.num_heads, self.register_start, self.depth)
        return self


class DitDh(_Denoiser):
    """DiT with a wide shallow head: (encoder stack, head stack)."""

    kind: Literal["dit-dh"]
    """Which backbone."""
    hidden_size: tuple[Positive, Positive]
    """Width of a token in the encoder stack and in the head."""
    depth: tuple[Positive, Positive]
    """Number of blocks in the encoder stack and in the head."""
    num_heads: tuple[Positive, Positive]
    """Attention heads in the encoder stack and in the head."""

    @model_validator(mode="after")
    def _consistent(self) -> DitDh:
        for width, heads in zip(self.hidden_size, self.num_heads, strict=True):
            _check_stack(width, heads, self.register_start, self.depth[0])
        return self


Denoiser = Annotated[Dit | DitDh, Field(discriminator="kind")]


def _check_stack(width: int, heads: int, register_start: int, depth: int) -> None:
    if width % (4 * heads):
        raise ValueError(f"hidden_size {width} must be a multiple of 4 * num_heads ({heads}) for rotary positions")
    if register_start >= depth:
        raise ValueError(
            f"register_start {register_start} is beyond the last block ({depth - 1}): no block would see them"
        )


class Flow(Section):
    """The flow that training and sampling share (t = 0 is data, t = 1 is noise)."""

    shift_dim: Positive
    """Dimension that sets the time shift sqrt(shift_dim / 4096); the release uses 196608 for every row."""
    t_eps: Annotated[float, Field(gt=0)] = 0.05
    """Lower clamp of t where the velocity is formed from the data prediction."""

    @property
    def shift(self) -> float:
        """The time shift s in t = s tau / (1 + (s - 1) tau)."""
        return math.sqrt(self.shift_dim / 4096)


class Recipe(Section):
    """How a denoiser is trained. Everything here changes the result, and nothing that does is elsewhere."""

    batch: Positive
    """Global batch over all processes and accumulation steps."""
    lr: Annotated[float, Field(gt=0)]
    """Learning rate of AdamW."""
    final_lr: Annotated[float, Field(gt=0)] | None = None
    """Learning rate at the end of the decay; null is constant."""
    decay_epochs: tuple[Annotated[int, Field(ge=0)], Positive] | None = None
    """First and last epoch of the linear decay from lr to final_lr; null is constant."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's betas."""
    eps: float = 1e-8
    """AdamW's eps."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Clip the gradient's global L2 norm to this; null does not clip."""
    ema: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    """Decays of the moving averages; the first is the one that tables report."""
    seed: int = 0
    """Seed of initial weights, data order, flips, noise, times and label drop."""
    precision: Literal["fp32", "tf32", "bf16"]
    """Arithmetic of the denoiser (weights and optimizer state stay fp32)."""
    train_all: bool = True
    """Train position tables and Fourier frequencies too, as the release does."""

    @model_validator(mode="after")
    def _schedule(self) -> Recipe:
        if (self.final_lr is None) != (self.decay_epochs is None):
            raise ValueError("final_lr and decay_epochs go together: give both, or neither for a constant rate")
        if self.decay_epochs is not None and self.decay_epochs[0] >= self.decay_epochs[1]:
            raise ValueError(f"decay_epochs {list(self.decay_epochs)}: the first must be before the last")
        if not self.ema:
            raise ValueError("ema: give at least one decay")
        return self


class Row(Section):
    """One row of the table: encoder x TTR x denoiser x registers x recipe."""

    encoder: str
    """Key of `encoders`."""
    ttr: Ttr
    """Test-time registers in the encoder: none, single, or recursive (a second discovery on top of the first)."""
    denoiser: str
    """Key of `denoisers`."""
    registers: Annotated[int, Field(ge=0)]
    """Diffusion registers; 0 is none, otherwise a perfect square."""
    recipe: str
    """Key of `recipes`."""

    @model_validator(mode="after")
    def _square(self) -> Row:
        if math.isqrt(self.registers) ** 2 != self.registers:
            raise ValueError(f"registers {self.registers} is not a perfect square (their positions form a square grid)")
        return self


class Guidance(Section):
    """Classifier-free guidance; inside the interval D = D_null + scale (D_class - D_null)."""

    scale: Annotated[float, Field(ge=1)] = 1.0
    """Guidance scale; 1 is none."""
    interval: tuple[Share, Share] = (0.0, 1.0)
    """Closed interval of the shifted time t in which guidance acts."""


class Sampling(Section):
    """How images are drawn for evaluation."""

    images: Positive
    """Images per row and epoch, balanced over the classes."""
    steps: Annotated[int, Field(ge=2)] = 50
    """Grid points of the Euler solver (steps - 1 network evaluations)."""
    seeds: tuple[int, ...] = (0,)
    """Sampling seeds; the first is the one that tables report."""
    precision: Literal["fp32", "tf32", "bf16"]
    """Arithmetic of the denoiser and the decoder (the ODE state stays fp32)."""
    guidance: dict[str, Guidance]
    """Named guidance settings; `unguided` must be one of them."""

    @model_validator(mode="after")
    def _unguided(self) -> Sampling:
        if self.guidance.get("unguided", Guidance(scale=2.0)).scale != 1.0:
            raise ValueError("guidance: an entry `unguided: {scale: 1.0}` is needed")
        if not self.seeds:
            raise ValueError("seeds: give at least one")
        return self


class Evaluation(Section):
    """How samples are scored (ADM protocol)."""

    epochs: tuple[Positive, ...]
    """Epochs at which every row is sampled and scored; the last is the end of training."""
    neighbours: Positive = 3
    """k of Precision and Recall."""
    split: Positive = 5000
    """Images in a split of the Inception Score."""
    references: tuple[Literal["validation", "train", "adm"], ...] = ("validation",)
    """What samples are compared with: the validation images, as many random training images, ADM's reference batch.

    The first is `validation`, whose numbers stand beside published ones; of the others the table shows FID."""

    @model_validator(mode="after")
    def _validation_first(self) -> Evaluation:
        if self.references[:1] != ("validation",) or len(set(self.references)) != len(self.references):
            raise ValueError(f"references {list(self.references)}: the first must be validation, and none may repeat")
        return self

    @model_validator(mode="after")
    def _ascending(self) -> Evaluation:
        if not self.epochs or list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError(f"epochs {list(self.epochs)} must be ascending, without repeats, and not empty")
        return self


class Figures(Section):
    """What the figures show."""

    images: tuple[Annotated[int, Field(ge=0)], ...]
    """Validation images (by index) whose token maps are drawn."""
    times: tuple[Share, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Times t at which the denoiser's tokens are looked at."""
    outlier_multiple: Annotated[float, Field(gt=1)] = 3.0
    """A token is an outlier when its norm exceeds this multiple of its image's median token norm."""
    grid: Annotated[int, Field(gt=0)] = 64
    """Images in a sample grid."""


class Execution(Section):
    """How jobs run. Nothing here changes what is computed beyond rounding, so nothing here reruns a job."""

    processes: Positive = 1
    """Processes (GPUs) per node of a torchrun job."""
    nodes: Positive = 1
    """Nodes of a training job."""
    micro_batch: Positive | None = None
    """Images per process and backward pass; null takes as many as fit into the GPU's memory."""
    sample_batch: Positive = 125
    """Images per process that are sampled together."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Data-loading workers per process."""
    threads: Positive = 1
    """CPU threads per process."""
    compile: bool = False
    """Compile encoder and denoiser with torch.compile."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Time between checkpoints of the training state."""
    log_every: Positive = 100
    """Steps between lines of the metrics file."""


class Request(Section):
    """What one job asks of a cluster, on each of its nodes."""

    cpus: Positive
    """CPU cores; the only one that counts on a single machine, where it limits how many jobs run side by side."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs."""
    gres: str | None = None
    """SLURM's name of the GPUs where `gpu:<gpus>` does not do, for example gpu:h100:8."""
    mem_mb: Positive
    """Memory in MB."""
    minutes: Positive
    """Time limit; training and sampling are requeued at theirs and go on."""


class Resources(Section):
    """What the jobs of each rule ask of a cluster; rules that are not here get the profile's default-resources."""

    prepare_shard: Request
    """Crop one shard of images."""
    discover_neurons: Request
    """Find an encoder's register neurons."""
    statistics: Request
    """Encode the training images for latent statistics."""
    train: Request
    """Train a row to a milestone."""
    sample: Request
    """Draw a row's images."""
    reference: Request
    """Collect the evaluation's reference images."""
    evaluate: Request
    """Score a row's images."""
    maps: Request
    """Look at an encoder's or a denoiser's tokens (encoder_maps, denoiser_maps)."""


class Config(Section):
    """The whole of `config.yaml`."""

    name: str
    """Title of tables and report."""
    published: bool
    """Whether the published numbers are comparable with these results (not so at demo scale)."""
    results: str
    """Folder of all results."""
    data: Data
    """The images."""
    encoders: dict[str, Encoder]
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
    rows: dict[str, Row]
    """The rows of the table, by id."""
    sampling: Sampling
    """Sampling."""
    evaluation: Evaluation
    """Evaluation."""
    figures: Figures
    """Figures."""
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
                if getattr(row, key) not in known:
                    raise ValueError(f"rows.{name}.{key}: '{getattr(row, key)}' is not one of {', '.join(known)}")
            batch, images = self.recipes[row.recipe].batch, self.data.train_images
            if batch > images:
                raise ValueError(f"recipes.{row.recipe}.batch: {batch} is more than the {images} training images")
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
        if self.data.source == "imagefolder" and not (self.data.train and self.data.validation):
            raise ValueError("data.source is imagefolder: give the paths data.train and data.validation")
        return self

    def autoencoder(self, encoder: str, ttr: Ttr) -> AutoencoderSpec:
        """What turns images into latents and back, for one encoder with or without TTR."""
        return AutoencoderSpec(
            encoder=self.encoders[encoder],
            passes=ttr,
            ttr=self.ttr if ttr != "none" else None,
            decoder=self.decoder,
            image_size=self.data.image_size,
        )

    def statistics(self, encoder: str, ttr: Ttr) -> StatisticsSpec:
        """Everything that determines the latent statistics of an encoder with or without TTR."""
        return StatisticsSpec(
            autoencoder=self.autoencoder(encoder, ttr), images=self.data.train_images, flip=self.data.flip
        )

    def discover(self, encoder: str, ttr: Ttr) -> DiscoverSpec:
        """Everything that determines an encoder's register neurons; a recursive discovery builds on a single one."""
        first: Ttr = "single" if ttr == "recursive" else "none"
        return DiscoverSpec(autoencoder=self.autoencoder(encoder, first), discovery=self.discovery)

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

    def train(self, row: str) -> TrainSpec:
        """Everything that determines the weights of a row."""
        entry = self.rows[row]
        return TrainSpec(
            row=row,
            autoencoder=self.autoencoder(entry.encoder, entry.ttr),
            model=self.model(row),
            flow=self.flow,
            recipe=self.recipes[entry.recipe],
            images=self.data.train_images,
            flip=self.data.flip,
        )

    def sample(self, row: str, guidance: str, seed: int) -> SampleSpec:
        """Everything but the weights that determines the images of a row."""
        entry = self.rows[row]
        return SampleSpec(
            autoencoder=self.autoencoder(entry.encoder, entry.ttr),
            model=self.model(row),
            flow=self.flow,
            images=self.sampling.images,
            steps=self.sampling.steps,
            precision=self.sampling.precision,
            guidance=self.sampling.guidance[guidance],
            seed=seed,
        )


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
