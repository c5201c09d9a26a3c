"""Euler integration of the flow from noise to a latent, with classifier-free guidance; one rule for both denoisers."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dsr.config.sampling import Guidance
from dsr.flow import Flow

Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t (B, C, S, S), t (B,), labels (B,)) -> predicted clean latents (B, C, S, S)."""


def guided(model: Predictor, x: Tensor, t: Tensor, y: Tensor, null_label: int, guidance: Guidance) -> Tensor:
    """Predict clean latents (B, C, S, S) fp32 by one forward of a doubled batch, with labels and with the null label.

    D = D_null + scale (D_class - D_null) for the samples whose time lies in the interval, D_class for the others.
    """
    labels = torch.cat([y, torch.full_like(y, null_label)])
    conditional, unconditional = model(torch.cat([x, x]), torch.cat([t, t]), labels).float().chunk(2)
    mixed = unconditional + guidance.scale * (conditional - unconditional)
    return torch.where(acts(t, guidance).view(-1, 1, 1, 1), mixed, conditional)


def acts(t: Tensor, guidance: Guidance) -> Tensor:
    """Return where guidance acts, bool of the shape of ``t``: a scale other than 1, and t in the closed interval."""
    low, high = guidance.interval
    return (t >= low) & (t <= high) & (guidance.scale != 1)


def trajectory(
    model: Predictor, flow: Flow, noise: Tensor, y: Tensor, *, null_label: int, steps: int, guidance: Guidance
) -> Iterator[Tensor]:
    """Yield the ``steps`` states (B, C, S, S) of Euler's method from noise to latents, by steps - 1 predictions.

    State and time stay fp32, whatever the model computes in. Where guidance does not act there is no null forward.
    """
    grid = flow.time_grid(steps)
    active = acts(grid, guidance).tolist()
    grid = grid.to(noise.device)
    x = noise
    yield x
    for index in range(steps - 1):
        t = grid[index].expand(len(x))
        prediction = guided(model, x, t, y, null_label, guidance) if active[index] else model(x, t, y).float()
        x = x + (grid[index + 1] - grid[index]) * flow.velocity(x, prediction, t)
        yield x
