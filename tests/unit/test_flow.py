from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dsr.config import training as config
from dsr.config.sampling import Guidance
from dsr.flow import Flow
from dsr.sampling.sampler import trajectory

"""Path, loss, velocity and time grid are compared with the recorded ones in tests/golden."""

FLOW = Flow(shift=math.sqrt(48))
VELOCITY = Flow(shift=math.sqrt(48), prediction="velocity")


def latents(seed: int) -> torch.Tensor:
    return torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def test_configuration_gives_the_shift() -> None:
    assert Flow.from_config(config.Flow(shift_dim=196608)) == FLOW
    assert Flow.from_config(config.Flow(shift_dim=196608, prediction="velocity")) == VELOCITY


def test_shifted_times_stay_in_the_interval() -> None:
    extremes = FLOW.times(torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert extremes.dtype == torch.float32
    assert extremes.tolist() == [0.0, 1.0]


def test_a_velocity_is_what_leads_from_the_clean_latents_that_it_stands_for() -> None:
    clean, noise, t = latents(0), latents(1), torch.rand(5, generator=torch.Generator().manual_seed(2)).clamp(min=0.1)
    x_t = FLOW.interpolate(clean, noise, t)
    assert torch.allclose(VELOCITY.clean(x_t, noise - clean, t), clean, atol=1e-6)
    assert torch.equal(FLOW.clean(x_t, clean, t), clean)
    assert VELOCITY.loss(noise - clean, clean, noise, t).tolist() == [0.0] * 5
    wrong = latents(3)
    of_data = VELOCITY.loss(FLOW.velocity(x_t, wrong, t), clean, noise, t)
    assert torch.allclose(of_data, FLOW.loss(wrong, clean, noise, t))


def test_the_grid_of_a_velocity_ends_where_the_release_ends_it() -> None:
    grid = VELOCITY.time_grid(50)
    assert grid[0] == 1.0
    assert grid[-1] == pytest.approx(0.00689, abs=1e-5)


class Mlp(nn.Module):
    """Predicts points of the plane, as latents (B, 2, 1, 1), from x_t and t."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layers(torch.cat([x.flatten(1), t[:, None]], 1))
        return output.view_as(x)


@pytest.mark.parametrize("flow", [Flow(shift=1.0), Flow(shift=1.0, prediction="velocity")])
def test_both_predictions_learn_to_sample_the_same_data(flow: Flow) -> None:
    torch.manual_seed(0)
    model = Mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(600):
        # Four clouds, around (+-1, +-1).
        clean = 2.0 * torch.randint(2, (256, 2, 1, 1)) - 1 + 0.1 * torch.randn(256, 2, 1, 1)
        noise, t = torch.randn_like(clean), flow.times(torch.rand(256))
        loss = flow.loss(model(flow.interpolate(clean, noise, t), t, t), clean, noise, t).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def sampled(read_as: Flow) -> torch.Tensor:
        with torch.no_grad():
            noise, labels = torch.randn(1000, 2, 1, 1), torch.zeros(1000, dtype=torch.int64)
            *_, end = trajectory(model, read_as, noise, labels, null_label=1, steps=50, guidance=Guidance())
        return end.flatten(1)

    points = sampled(flow)
    assert (points.abs() - 1).abs().mean() < 0.2
    assert points.sign().mean(0).abs().max() < 0.1
    other = replace(flow, prediction="velocity" if flow.prediction == "data" else "data")
    assert (sampled(other).abs() - 1).abs().mean() > 0.4
