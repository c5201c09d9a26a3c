from __future__ import annotations

import math

import pytest
import torch

from dsr.config import training as config
from dsr.flow import Flow

FLOW = Flow(shift=math.sqrt(48))


def latents(seed: int) -> torch.Tensor:
    return torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def test_configuration_gives_the_shift() -> None:
    assert Flow.from_config(config.Flow(shift_dim=196608)) == FLOW


def test_path_runs_from_data_to_noise() -> None:
    clean, noise = latents(0), latents(1)
    assert torch.equal(FLOW.interpolate(clean, noise, torch.zeros(5)), clean)
    assert torch.equal(FLOW.interpolate(clean, noise, torch.ones(5)), noise)


def test_a_perfect_prediction_has_no_loss_and_the_path_s_velocity() -> None:
    clean, noise, t = latents(0), latents(1), torch.tensor([0.05, 0.1, 0.4, 0.9, 1.0])
    x_t = FLOW.interpolate(clean, noise, t)
    torch.testing.assert_close(FLOW.velocity(x_t, clean, t), noise - clean, rtol=1e-4, atol=1e-5)
    assert FLOW.loss(clean, clean, noise, t).max() < 1e-8


def test_loss_is_the_prediction_error_over_t_squared() -> None:
    clean, noise, prediction, t = latents(0), latents(1), latents(2), torch.tensor([0.05, 0.1, 0.4, 0.9, 1.0])
    expected = (prediction - clean).square().mean((1, 2, 3)) / t**2
    torch.testing.assert_close(FLOW.loss(prediction, clean, noise, t), expected)


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


def test_time_grid_is_the_published_one() -> None:
    grid = FLOW.time_grid(50)
    assert (grid[0], grid[-1], len(grid)) == (1.0, 0.0, 50)
    assert grid[48].item() == pytest.approx(0.126131922)
    assert (grid.diff() < 0).all()
