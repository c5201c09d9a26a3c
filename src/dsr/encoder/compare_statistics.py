"""How far released and computed latent statistics are apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dsr.base.markup import pipe_table
from dsr.encoder.statistics import EPS, Normaliser


@dataclass(frozen=True)
class Difference:
    """Absolute differences over all channels and positions."""

    mean: float
    """Their average."""
    max: float
    """The largest."""
    at: tuple[int, int, int]
    """Where that is: (channel, row, column)."""


@dataclass(frozen=True)
class Comparison:
    """Differences in units of what a latent is divided by: the released sqrt(var + 1e-5) of its place."""

    shape: tuple[int, int, int]
    """(C, S, S) of the statistics."""
    means: Difference
    """Of the means, over the released standard deviation."""
    deviations: Difference
    """Of the standard deviations, over the released one."""
    variances: Difference
    """Of the variances (with the 1e-5), over the released one."""


def compare(released: Path, computed: Path, shape: tuple[int, int, int]) -> Comparison:
    """Compare two statistics files of latents of shape (C, S, S).

    Raises:
        UserError: if one is missing, is of another kind or shape, or holds impossible values.
    """
    ours, theirs = (Normaliser.load(path, shape) for path in (computed, released))
    our_variance, variance = (ours.var.double() + EPS), (theirs.var.double() + EPS)
    deviation = variance.sqrt()
    return Comparison(
        shape=shape,
        means=_difference((ours.mean.double() - theirs.mean.double()) / deviation),
        deviations=_difference(our_variance.sqrt() / deviation - 1),
        variances=_difference(our_variance / variance - 1),
    )


def markdown(comparison: Comparison, title: str) -> str:
    """Return the comparison as a page of Markdown."""
    entries = {
        "mean, in released standard deviations": comparison.means,
        "standard deviation, over the released one": comparison.deviations,
        "variance, over the released one": comparison.variances,
    }
    rows = [
        [name, f"{entry.mean:.3g}", f"{entry.max:.3g}", ", ".join(map(str, entry.at))]
        for name, entry in entries.items()
    ]
    header = ["absolute difference of", "average", "largest", "at channel, row, column"]
    channels, height, width = comparison.shape
    return (
        f"# {title}: released and computed latent statistics\n\n"
        f"Computed against released, over {channels} channels and {height} x {width} positions. The standard deviation"
        " is sqrt(var + 1e-5), which latents are divided by.\n\n" + pipe_table(header, rows, header[1:3]) + "\n"
    )


def _difference(values: torch.Tensor) -> Difference:
    absolute = values.abs()
    channel, row, column = torch.unravel_index(absolute.argmax(), absolute.shape)
    return Difference(mean=absolute.mean().item(), max=absolute.max().item(), at=(int(channel), int(row), int(column)))
