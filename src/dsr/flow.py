"""The flow that training and sampling share: linear path, shifted logit-normal times, data or velocity prediction.

Time t runs from data (t = 0) to noise (t = 1): x_t = (1 - t) clean + t noise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dsr.config import training as config


@dataclass(frozen=True)
class Flow:
    """Path, time law and loss; ``shift`` moves times towards noise, ``t_eps`` bounds the division by t."""

    shift: float
    t_eps: float = 0.05
    prediction: config.Prediction = "data"

    @property
    def interval(self) -> tuple[float, float]:
        """Share of the way from noise to data that sampling goes; the release stops a velocity short of its end."""
        return (0.0, 1.0) if self.prediction == "data" else (0.0, 0.999)

    @classmethod
    def from_config(cls, section: config.Flow) -> "Flow":
        """Build the flow of a configuration."""
        return cls(shift=section.shift, t_eps=section.t_eps, prediction=section.prediction)

    def shifted(self, tau: Tensor) -> Tensor:
        """Shift times: s tau / (1 + (s - 1) tau); 0 and 1 stay where they are."""
        shifted: Tensor = self.shift * tau / (1 + (self.shift - 1) * tau)
        return shifted

    def times(self, u: Tensor) -> Tensor:
        """Turn uniform numbers in [0, 1) into fp32 training times: the shifted sigmoid of a standard normal."""
        normal: Tensor = torch.special.ndtri(u.float())
        return self.shifted(normal.sigmoid())

    def time_grid(self, steps: int) -> Tensor:
        """Times of the sampler from 1 (noise) to (almost) 0 (data), (steps,) fp32: evenly spaced, then shifted."""
        start, end = self.interval
        return self.shifted(1 - torch.linspace(start, end, steps, dtype=torch.float32))

    def interpolate(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Point x_t between clean latents and noise (B, C, S, S) at times (B,)."""
        t = _like(t, clean)
        point: Tensor = (1 - t) * clean + t * noise
        return point

    def velocity(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Velocity dx/dt (B, C, S, S) of a prediction: away from clean latents, or itself; times (B,) or ()."""
        if self.prediction == "velocity":
            return prediction
        return (x_t - prediction) / _like(t, x_t).clamp(min=self.t_eps)

    def clean(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Clean latents (B, C, S, S) that a prediction at x_t stands for; times (B,)."""
        return x_t - _like(t, x_t) * prediction if self.prediction == "velocity" else prediction

    def loss(self, prediction: Tensor, clean: Tensor, noise: Tensor, t: Tensor, kept: Tensor | None = None) -> Tensor:
        """Squared error of the velocity, mean over each latent, (B,); in fp32 whatever the prediction's dtype.

        Of tokens that are not ``kept``, bool (B, S, S), the error counts as 0.
        """
        error = self.squared_error(prediction, clean, noise, t)
        return (error if kept is None else error * kept.unsqueeze(1)).flatten(1).mean(1)

    def squared_error(self, prediction: Tensor, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Squared error of the velocity, elementwise (B, C, S, S)."""
        velocity = self.velocity(self.interpolate(clean, noise, t), prediction, t)
        return (velocity - (noise - clean)).square()


def _like(t: Tensor, x: Tensor) -> Tensor:
    return t.view(-1, *[1] * (x.ndim - 1))
