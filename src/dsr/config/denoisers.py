"""Denoisers: the two backbones and their diffusion registers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dsr.config.base import Natural, Positive, PositiveFloat, Section, Share


class _Denoiser(Section):
    register_start: Natural = 0
    """Diffusion registers enter before this block (0-based)."""
    mlp_ratio: PositiveFloat = 4.0
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

    @property
    def blocks(self) -> int:
        """Number of all blocks."""
        return self.depth

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

    @property
    def blocks(self) -> int:
        """Number of all blocks."""
        return sum(self.depth)

    @model_validator(mode="after")
    def _consistent(self) -> DitDh:
        for width, heads in zip(self.hidden_size, self.num_heads, strict=True):
            _check_stack(width, heads, self.register_start, self.depth[0])
        return self


Denoiser = Annotated[Dit | DitDh, Field(discriminator="kind")]
"""All denoisers. What a new one needs:

- its section above, with ``blocks``, and a place in this union; then `make schema`;
- a module in `dsr/denoiser` with the arguments of `dit.py`: blocks of the class `Block` in `layers.py`, the only one
  that maps and fused kernels know; attributes ``blocks``, ``final_layer``, ``run_blocks`` and ``null_label``;
  registers before the image tokens;
- a case in `dsr/denoiser/build.py`, whose own union it joins, and in `dsr/analysis/cost.py` (mypy says if one is
  missing);
- where it has a reference, recorded vectors and a case in `tests/golden/cases/denoiser.py`.
"""


def _check_stack(width: int, heads: int, register_start: int, depth: int) -> None:
    if width % (4 * heads):
        raise ValueError(f"hidden_size {width} must be a multiple of 4 * num_heads ({heads}) for rotary positions")
    if register_start >= depth:
        raise ValueError(
            f"register_start {register_start} is beyond the last block ({depth - 1}): no block would see them"
        )
