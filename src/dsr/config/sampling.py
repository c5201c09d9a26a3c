"""How images are drawn, scored and shown."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dsr.config.base import Name, Positive, Section, Share


class Guidance(Section):
    """Classifier-free guidance; inside the interval D = D_null + scale (D_class - D_null)."""

    scale: Annotated[float, Field(ge=1)] = 1.0
    """Guidance scale; 1 is none."""
    interval: tuple[Share, Share] = (0.0, 1.0)
    """Closed interval of the shifted time t in which guidance acts."""

    @model_validator(mode="after")
    def _ordered(self) -> Guidance:
        if self.interval[0] > self.interval[1]:
            raise ValueError(f"interval {list(self.interval)}: the first must not be above the second")
        return self


class Sweep(Section):
    """The search for a guidance setting: every scale with every interval, the lowest FID is chosen."""

    rows: tuple[str, ...]
    """Rows that are sampled with guidance too, at their last epoch, each with the setting chosen for it."""
    images: Positive
    """Images per candidate, balanced over the classes; with the chosen setting `sampling.images` are drawn."""
    scales: Annotated[tuple[Annotated[float, Field(ge=1)], ...], Field(min_length=1)]
    """Guidance scales to try."""
    intervals: Annotated[tuple[tuple[Share, Share], ...], Field(min_length=1)] = ((0.0, 1.0),)
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
    seeds: tuple[int, ...] = (0,)
    """Sampling seeds; the first is the one that tables report."""
    precision: Literal["fp32", "tf32", "bf16"]
    """Arithmetic of the denoiser and the decoder (the ODE state stays fp32)."""
    guidance: dict[Name, Guidance]
    """Named guidance settings; `unguided` must be one of them."""
    sweep: Sweep | None = None
    """Search for a guidance setting, which the table shows as `chosen`; null searches for none."""

    @model_validator(mode="after")
    def _unguided(self) -> Sampling:
        if self.guidance.get("unguided", Guidance(scale=2.0)).scale != 1.0:
            raise ValueError("guidance: an entry `unguided: {scale: 1.0}` is needed")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)}: give at least one, and none twice")
        return self

    @model_validator(mode="after")
    def _sweep(self) -> Sampling:
        if CHOSEN in self.guidance:
            raise ValueError(f"guidance: `{CHOSEN}` is the name of what the sweep chooses; use another one")
        if self.sweep is not None and self.sweep.seed in self.seeds:
            raise ValueError(f"sweep.seed: {self.sweep.seed} is one of `seeds`; choose with images of another seed")
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

    rows: tuple[str, ...] | None = None
    """Rows to draw; null draws all."""
    epoch: Positive | None = None
    """Epoch of `evaluation.epochs` at which rows are drawn; null is the last one. Fetched weights have their own."""
    images: tuple[Annotated[int, Field(ge=0)], ...]
    """Validation images (by index). Outlier ratios are means over all of them. Token maps are drawn of the first one,
    and of another one when `<results>/figures/image-{index}/{figure}.png` is asked for."""
    layers: tuple[Positive, ...] | None = None
    """Blocks after which denoisers are shown (1 is the first block), besides their output. Null, and denoisers of which
    one is shallower, give six at equal shares of the depth. Encoders are always shown at equal shares."""
    times: tuple[Share, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Times t at which the denoiser's tokens are looked at; rows are compared at the middle one."""
    outlier_multiple: Annotated[float, Field(gt=1)] = 3.0
    """A token is an outlier when its norm exceeds this multiple of its image's median token norm."""
    grid: Annotated[int, Field(gt=0)] = 64
    """Images in a sample grid."""

    @model_validator(mode="after")
    def _each_once(self) -> Figures:
        for key in ("rows", "images", "layers", "times"):
            values = getattr(self, key)
            if values is None:
                continue
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{key} {list(values)}: give at least one, and none twice")
            if key in ("layers", "times") and list(values) != sorted(values):
                raise ValueError(f"{key} {list(values)} must be ascending")
        return self
