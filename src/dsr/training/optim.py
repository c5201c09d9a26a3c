"""What turns gradients into weights: AdamW, the learning-rate schedule, clipping and moving averages (EMA)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from dsr.config.training import Recipe

LOSS_SCALE = 2**12
"""Loss scale of a batch of one image: gradients then lie in the middle of float16's range (`benchmarks/NOTES.md`)."""
PATIENCE = 1000
"""Steps after which a loss scale that had to be lowered is doubled again."""


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of the 0-based optimizer step ``step``.

    Constant ``lr`` up to the first decay epoch, linear to ``final_lr`` at the last, constant from there; there
    is no warm-up from zero. Without a decay it is ``lr`` throughout.
    """
    if recipe.final_lr is None or recipe.decay_epochs is None:
        return recipe.lr
    first, last = (epoch * steps_per_epoch for epoch in recipe.decay_epochs)
    progress = min(max((step - first) / (last - first), 0.0), 1.0)
    final_share = recipe.final_lr / recipe.lr
    # A multiple of lr, as LambdaLR forms it: the same floating-point numbers as the published runs.
    return recipe.lr * (final_share if progress == 1.0 else 1.0 - (1.0 - final_share) * progress)


def first_loss_scale(recipe: Recipe) -> float | None:
    """Return what a run in fp16 multiplies losses by at first, a power of two; None in other precisions.

    It grows with the batch, because the loss is a mean over it.
    """
    return float(1 << (recipe.batch * LOSS_SCALE - 1).bit_length()) if recipe.precision == "fp16" else None


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, in the model's order; its learning rate is set before every step."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        trainable, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay, fused=True
    )


class MovingAverage:
    """Exponential moving average of all parameters: average = decay average + (1 - decay) parameter.

    It starts as a copy of the parameters and has no warm-up. Frozen parameters take part (they stay what they are
    up to rounding), buffers do not.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = dict(model.named_parameters())
        self._average = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters' present values into the average."""
        average = list(self._average.values())
        parameters: list[torch.Tensor] = list(self._parameters.values())
        if average[0].is_cuda:
            # average + (1 - decay) (parameter - average): one pass over the memory instead of two.
            torch._foreach_lerp_(average, parameters, 1.0 - self.decay)
        else:
            torch._foreach_mul_(average, self.decay)
            torch._foreach_add_(average, parameters, alpha=1.0 - self.decay)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the averages by parameter name (not copies)."""
        return dict(self._average)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Overwrite the averages; names must be the model's."""
        if state.keys() != self._average.keys():
            raise ValueError(f"averages of other parameters: {sorted(state.keys() ^ self._average.keys())[:5]}")
        for name, value in self._average.items():
            value.copy_(state[name])
