"""Size and arithmetic of a denoiser, counted on the meta device: no weights, no accelerator, no training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from dsr.config.specs import ModelSpec
from dsr.denoiser.build import build_denoiser


@dataclass(frozen=True)
class Cost:
    """What one denoiser costs."""

    parameters: int
    """All parameters, position tables and Fourier frequencies included."""
    trainable: int
    """Parameters that require gradients as constructed (without position tables and Fourier frequencies)."""
    flops: int
    """One forward pass of one image: matrix products and attention, two per multiply-add, as the paper counts."""


def denoiser_cost(spec: ModelSpec) -> Cost:
    """Count the parameters and the forward FLOPs of the denoiser that ``spec`` describes."""
    with torch.device("meta"):
        model = build_denoiser(spec, train_all=False).eval()
        inputs = (
            torch.empty(1, spec.channels, spec.grid, spec.grid),
            torch.empty(1),
            torch.empty(1, dtype=torch.int64),
        )
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(*inputs)
    parameters = list(model.parameters())
    return Cost(
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        flops=counter.get_total_flops(),
    )
