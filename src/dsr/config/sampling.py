"""How images are drawn, scored and shown: sampling, evaluation, figures, tables."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dsr.config.base import Ascending, Distinct, Interval, Name, Natural, Positive, Precision, Section, Share


class Guidance(Section):
    """Classifier-free guidance; inside the interval D = D_null + scale (D_class - D_null)."""

    scale: Annotated[float, Field(ge=1)] = 1.0
    """Guidance scale; 1 is none."""
    interval: Interval = (0.0, 1.0)
    """Closed interval of the shifted time t in which guidance acts."""


class Sweep(Section):
    """The search for a guidance setting: every scale with every interval, the lowest FID is chosen."""

    rows: tuple[str, ...]
    """Rows that are sampled with guidance too, at their last epoch, each with the setting chosen for it."""
    images: Positive
    """Images per candidate, balanced over the classes; with the chosen setting `sampling.images` are drawn."""
    scales: Annotated[tuple[Annotated[float, Field(ge=1)], ...], Field(min_length=1)]
    """Guidance scales to try."""
    intervals: Annotated[tuple[Interval, ...], Field(min_length=1)] = ((0.0, 1.0),)
    """Intervals of t to try with every scale."""
    seed: int = 1000
    """Sampling seed of the candidates; none of `sampling.seeds`, so that no setting is chosen for a lucky draw that is
    then reported."""

    @property
    def candidates(self) -> dict[str, Guidance]:
        """The settings to try, by name."""
        return {
            f"w{scale:g}-t{low:g}-{high:g}": Guidance(scale=scale, interval=(low, high))
            for scale in self.scales
            for low, high in self.intervals
        }


CHOSEN = "chosen"
"""Name of the guidance setting that a sweep chooses."""


class Sampling(Section):
    """How images are drawn for evaluation."""

    images: Positive
    """Images per row and epoch, balanced over the classes."""
    steps: Annotated[int, Field(ge=2)] = 50
    """Grid points of the Euler solver (steps - 1 network evaluations)."""
    seeds: Distinct[int] = (0,)
    """Sampling seeds; the first is the one that tables report."""
    precision: Precision
    """Arithmetic of the denoiser and the decoder (the ODE state stays fp32)."""
    guidance: dict[Name, Guidance]
    """Named guidance settings; `unguided` must be one of them."""
    sweep: Sweep | None = None
    """Search for a guidance setting, which the table shows as `chosen`; null searches for none."""

    @model_validator(mode="after")
    def _guidance(self) -> "Sampling":
        if self.guidance.get("unguided", Guidance(scale=2.0)).scale != 1.0:
            raise ValueError("guidance: an entry `unguided: {scale: 1.0}` is needed")
        if CHOSEN in self.guidance:
            raise ValueError(f"guidance: `{CHOSEN}` is the name of what the sweep chooses; use another one")
        if self.sweep is not None and self.sweep.seed in self.seeds:
            raise ValueError(f"sweep.seed: {self.sweep.seed} is one of `seeds`; choose with images of another seed")
        return self


class Evaluation(Section):
    """How samples are scored (ADM protocol)."""

    epochs: Ascending[Positive]
    """Epochs at which every row is sampled and scored; the last is the end of training."""
    references: Distinct[Literal["validation", "train", "adm"]] = ("validation",)
    """What samples are compared with: the validation images, as many random training images, ADM's reference batch.

    The first is `validation`, whose numbers stand beside published ones; of the others the table shows FID."""

    @model_validator(mode="after")
    def _validation_first(self) -> "Evaluation":
        if self.references[0] != "validation":
            raise ValueError(f"references {list(self.references)}: the first must be validation")
        return self


class Figures(Section):
    """What the figures show."""

    rows: Distinct[str] | None = None
    """Rows to draw; null draws all."""
    epoch: Positive | None = None
    """Epoch of `evaluation.epochs` at which rows are drawn; null is the last one. Fetched weights have their own."""
    images: Distinct[Natural]
    """Validation images (by index). Outlier ratios are means over all of them. Token maps are drawn of the first one,
    and of another one when `<results>/figures/image-{index}/{figure}.png` is asked for."""
    folder: str | None = None
    """Folder of images to look at instead of validation images; class folders have labels for names (`207/a.jpg`)."""
    layers: Ascending[Positive] | None = None
    """Blocks after which denoisers are shown (1 is the first block), besides their output. Null, and denoisers of which
    one is shallower, give six at equal shares of the depth. Encoders are always shown at equal shares."""
    times: Ascending[Share] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Times t at which the denoiser's tokens are looked at; rows are compared at the middle one."""
    outlier_multiple: Annotated[float, Field(gt=1)] = 3.0
    """A token is an outlier when its norm exceeds this multiple of its image's median token norm."""
    grid: Positive = 64
    """Images in a sample grid."""


class Table(Section):
    """A table of its own, `<results>/tables/{id}.md`: published, measured and the difference, without guidance."""

    title: str
    """Heading."""
    rows: Distinct[str]
    """Rows in order, by id. One that only `overlay` has is shown as not run, with the command that runs it; one that
    neither has as not reproduced."""
    epochs: Ascending[Positive] | None = None
    """Epochs to show; null is those of `evaluation.epochs` and of the published values."""
    chart: bool = False
    """Compare with the FIDs read off the published chart instead of those of the published tables."""
    overlay: str | None = None
    """Configuration file that has the rows which this one lacks; it becomes part of their command."""
    note: str | None = None
    """What a reader has to know besides."""
