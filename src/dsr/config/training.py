"""The two denoisers, and how one is trained: the flow, the recipe, the row that names them."""

import abc
import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dsr.config.base import Distinct, Natural, Positive, PositiveFloat, Precision, Section, Share
from dsr.config.encoders import Stack, Ttr

Prediction = Literal["data", "velocity"]
"""What a denoiser puts out: the clean latents, or the velocity noise - clean."""
Beta = Annotated[float, Field(ge=0, lt=1)]
Decay = Annotated[float, Field(gt=0, lt=1)]


class _Denoiser(Section, abc.ABC):
    register_start: Natural = 0
    """Diffusion registers enter before this block (0-based)."""
    mlp_ratio: PositiveFloat = 4.0
    """Hidden width of the MLP over the width of a token, before SwiGLU's 2/3."""
    class_dropout: Share = 0.1
    """Probability that a training label becomes the null label."""

    @property
    @abc.abstractmethod
    def stacks(self) -> list[tuple[int, int, int]]:
        """Width of a token, number of blocks and attention heads of every stack of blocks."""

    @property
    def blocks(self) -> int:
        """Number of all blocks."""
        return sum(depth for _, depth, _ in self.stacks)

    @model_validator(mode="after")
    def _consistent(self) -> "_Denoiser":
        for width, _, heads in self.stacks:
            if width % (4 * heads):
                raise ValueError(
                    f"hidden_size {width} must be a multiple of 4 * num_heads ({heads}) for rotary positions"
                )
        last = self.stacks[0][1] - 1
        if self.register_start > last:
            raise ValueError(
                f"register_start {self.register_start} is beyond the last block ({last}): no block would see them"
            )
        return self


class Dit(_Denoiser, Stack):
    """LightningDiT: one stack of blocks."""

    kind: Literal["dit"]
    """Which backbone."""

    @property
    def stacks(self) -> list[tuple[int, int, int]]:
        """The one stack."""
        return [(self.hidden_size, self.depth, self.num_heads)]


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

    @property
    def stacks(self) -> list[tuple[int, int, int]]:
        """The encoder stack and the head."""
        return [*zip(self.hidden_size, self.depth, self.num_heads, strict=True)]


Denoiser = Annotated[Dit | DitDh, Field(discriminator="kind")]
"""All denoisers; `CONTRIBUTING.md` says what a new one needs."""


class Flow(Section):
    """The flow that training and sampling share (t = 0 is data, t = 1 is noise)."""

    shift_dim: Positive
    """Dimension that sets the time shift sqrt(shift_dim / 4096); the release uses 196608 for every row."""
    t_eps: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Lower clamp of t where the velocity is formed from the data prediction."""
    prediction: Prediction = "data"
    """What denoisers that are trained here predict: data, as the paper's do, or velocity."""

    @property
    def shift(self) -> float:
        """The time shift s in t = s tau / (1 + (s - 1) tau)."""
        return math.sqrt(self.shift_dim / 4096)


class Recipe(Section):
    """How a denoiser is trained. Everything here changes the result, and nothing that does is elsewhere.

    Keys at their defaults are part of no specification and no hash. So a new key has a default that does what was done
    before there was one, and a default never changes its value or its meaning."""

    batch: Positive
    """Global batch over all processes and accumulation steps."""
    lr: PositiveFloat
    """Learning rate of AdamW."""
    final_lr: PositiveFloat | None = None
    """Learning rate at the end of the decay; null is constant."""
    decay_epochs: tuple[Natural, Positive] | None = None
    """First and last epoch of the linear decay from lr to final_lr; null is constant."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's betas."""
    eps: PositiveFloat = 1e-8
    """AdamW's eps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    clip: PositiveFloat | None = None
    """Clip the gradient's global L2 norm to this; null does not clip."""
    ema: Distinct[Decay]
    """Decays of the moving averages; the first is the one that tables report."""
    seed: int = 0
    """Seed of initial weights, data order, flips, noise, times and label drop."""
    precision: Precision
    """Arithmetic of the denoiser (weights and optimizer state stay fp32). The encoder has TF32; with fp16, float16
    if that leaves the latents of the run's first images within 2e-3 of what they were."""
    mask_norm: PositiveFloat | None = None
    """Leave tokens out of the loss whose norm in the standardised latent is this or more (the paper's loss masking, its
    tau); the loss is the mean over the tokens of the global batch that are left. Null leaves none out."""
    train_all: bool = True
    """Train position tables and Fourier frequencies too, as the release does."""

    def initial_weights_left(self, steps: int) -> str:
        """Say how much of the initial weights the moving averages hold after ``steps``; '' if it is at most 1 %."""
        left = {decay: decay**steps for decay in self.ema}
        return ", ".join(f"{share:.0%} with decay {decay}" for decay, share in left.items() if share > 0.01)

    @model_validator(mode="after")
    def _schedule(self) -> "Recipe":
        if (self.final_lr is None) != (self.decay_epochs is None):
            raise ValueError("final_lr and decay_epochs go together: give both, or neither for a constant rate")
        if self.decay_epochs is not None and self.decay_epochs[0] >= self.decay_epochs[1]:
            raise ValueError(f"decay_epochs {list(self.decay_epochs)}: the first must be before the last")
        return self


class Weights(Section):
    """Weights that somebody else trained."""

    artifact: str
    """Id in `src/dsr/artifacts/manifest.yaml`; it is fetched, and its tensors must be those of the row's denoiser."""
    epoch: Positive
    """Epoch after which they were taken, for tables and file names."""
    ema: Decay | None = None
    """Decay of the moving average that they are; null: not known."""
    prediction: Prediction = "data"
    """What the denoiser was trained to predict; as the wrong one, it draws noise."""
    classes: Positive | None = None
    """Classes that it knows, if a row that is trained from it has others: its label table begins anew."""
    registers: Natural | None = None
    """Diffusion registers that it has, if such a row has others: they begin anew."""


class Row(Section):
    """One row of the table: encoder x TTR x denoiser x registers x recipe."""

    encoder: str
    """Key of `encoders`."""
    ttr: Ttr
    """Test-time registers in the encoder: none, single, or recursive (a second discovery on top of the first)."""
    denoiser: str
    """Key of `denoisers`."""
    registers: Natural
    """Diffusion registers; 0 is none, otherwise a perfect square."""
    recipe: str | None = None
    """Key of `recipes`: how the row is trained."""
    weights: Weights | None = None
    """Weights to fetch. Without a recipe they are the row's, which is not trained; with one it is trained from them."""
    compare_with: str | None = None
    """Row of the published tables whose numbers stand beside this one's; null is the row of the same name."""

    @property
    def fetched(self) -> Weights | None:
        """The row's own weights, where it is not trained."""
        return None if self.recipe else self.weights

    @model_validator(mode="after")
    def _consistent(self) -> "Row":
        if self.recipe is None and self.weights is None:
            raise ValueError("give a recipe, to train the row, or weights, to fetch them, or both, to train from them")
        if self.fetched and (self.fetched.classes, self.fetched.registers) != (None, None):
            raise ValueError("weights.classes and weights.registers are for rows that are trained; give a recipe too")
        if math.isqrt(self.registers) ** 2 != self.registers:
            raise ValueError(f"registers {self.registers} is not a perfect square (their positions form a square grid)")
        return self
