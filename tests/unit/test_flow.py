from __future__ import annotations

import math

import pytest
import torch

from dsr.config import training as config
from dsr.flow import Flow

"""Path, loss, velocity and time grid are compared with the recorded ones in tests/golden."""

FLOW = Flow(shift=math.sqrt(48))


def latents(seed: int) -> torch.Tensor:
    return torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def test_configuration_gives_the_shift() -> None:
    assert Flow.from_config(config.Flow(shift_dim=196608)) == FLOW


def test_division_by_t_is_bounded() -> None:
    x, prediction = latents(0), latents(1)
    assert torch.equal(FLOW.velocity(x, prediction, torch.zeros(5)), (x - prediction) / 0.05)
    assert torch.equal(FLOW.velocity(x, prediction, torch.tensor(0.5)), (x - prediction) / 0.5)


def test_times_are_shifted_towards_noise_and_stay_in_the_interval() -> None:
    times = FLOW.times(torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    assert times.dtype == torch.float32
    assert times.mean() == pytest.approx(0.837, abs=2e-3)
    extremes = FLOW.times(torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert extremes.tolist() == [0.0, 1.0]
