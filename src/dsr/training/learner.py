"""The model under training and what changes it: steps over global batches, by AdamW, with moving averages (EMA)."""

import contextlib
import logging
import math
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dsr.accel.device import Fetched, autocast, usable_precision
from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.config.training import Recipe
from dsr.flow import Flow
from dsr.training.batches import MicroBatch
from dsr.training.checkpoint import TrainState, code

log = logging.getLogger(__name__)

SPARE = 1 / 12
"""Share of a GPU's memory that a trial step keeps free for the encoder's work and for gaps between tensors."""

LOSS_SCALE = 2**12
"""Loss scale of a batch of one image: gradients then lie in the middle of float16's range (`benchmarks/NOTES.md`)."""
PATIENCE = 1000
"""Steps after which a loss scale that had to be lowered is doubled again."""


def first_loss_scale(recipe: Recipe) -> float | None:
    """Return what a run in fp16 multiplies losses by at first, a power of two; None in other precisions.

    It grows with the batch, because the loss is a mean over it.
    """
    return float(1 << (recipe.batch * LOSS_SCALE - 1).bit_length()) if recipe.precision == "fp16" else None


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


class NotFiniteError(UserError):
    """The loss or the gradient is not a finite number; the message names the step and both values."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step was like; equal on all processes."""

    loss: float
    """Mean loss of the global batch."""
    grad_norm: float
    """Global L2 norm of the gradient before clipping."""
    lr: float
    """Learning rate of the step."""
    stop: bool
    """Whether at least one process asked to stop after this step."""


class Learner:
    """Denoiser, moving averages and optimizer, in step on all processes.

    Args:
        model: initial weights; those of the first process count.
    """

    def __init__(self, model: nn.Module, flow: Flow, recipe: Recipe, world: World, *, steps_per_epoch: int) -> None:
        self.step = 0
        self.model = model.to(world.device).train()
        self._forward: nn.Module = self.model
        self._unreduced: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        if world.size > 1:
            ddp = DistributedDataParallel(self.model, broadcast_buffers=False, gradient_as_bucket_view=True)
            self._forward, self._unreduced = ddp, ddp.no_sync
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        # Its learning rate is set before every step.
        self.optimizer = torch.optim.AdamW(
            trainable, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay, fused=True
        )
        self.averages = {str(decay): MovingAverage(self.model, decay) for decay in recipe.ema}
        self._flow, self._recipe, self._world = flow, recipe, world
        self.precision = usable_precision(recipe.precision, world.device)
        self._first_scale = self._loss_scale = first_loss_scale(recipe)
        self._steps_per_epoch = steps_per_epoch
        self._rows = recipe.batch // world.size

    def update(
        self,
        micro_batches: Iterable[MicroBatch],
        *,
        stop: Callable[[], bool],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> StepResult:
        """One optimizer step on this process's part of a global batch.

        A process whose ``stop`` is true makes ``stop`` true in everyone's result. ``meanwhile`` runs before the host
        waits for the GPU, once or more; what it queues keeps the GPU busy while the host prepares the next step.

        Raises:
            NotFiniteError: on all processes, before weights or optimizer have changed.
        """
        if self._loss_scale is None:
            outcome = self._differentiate(micro_batches, stop)
        else:
            samples = list(micro_batches)
            outcome = self._differentiate(samples, stop)
            while self._overflowed(outcome, meanwhile):
                outcome = self._differentiate(samples, stop)
        lr = learning_rate(self._recipe, self.step, self._steps_per_epoch)
        if self._recipe.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self._recipe.clip, outcome.device[2])
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        # The device goes on while the host waits for the outcome: AdamW itself leaves everything as it is if told so.
        self.optimizer.found_inf = 1.0 - outcome.device.isfinite().all().float()  # type: ignore[attr-defined]
        if self._loss_scale is not None or self._recipe.mask_norm is not None:
            self.optimizer.grad_scale = self._seed * outcome.device[3]  # type: ignore[attr-defined]
        self.optimizer.step()
        for average in self.averages.values():
            average.update()
        meanwhile()
        mean_loss, votes, grad_norm, _ = outcome.values().tolist()
        if not (math.isfinite(mean_loss) and math.isfinite(grad_norm)):
            raise NotFiniteError(f"step {self.step + 1}: loss {mean_loss}, gradient norm {grad_norm}")
        self.step += 1
        if self._loss_scale is not None and self._first_scale is not None and self.step % PATIENCE == 0:
            self._loss_scale = min(2 * self._loss_scale, self._first_scale)
        return StepResult(mean_loss, grad_norm, lr, votes > 0)

    @property
    def _seed(self) -> float:
        """What this process's loss is multiplied by: the shares of all processes make up the loss scale."""
        return 1.0 if self._loss_scale is None else self._loss_scale / self._world.size

    def _differentiate(self, micro_batches: Iterable[MicroBatch], stop: Callable[[], bool]) -> Fetched:
        """Leave the mean gradient of all processes, times :attr:`_seed` and the share of tokens in the loss.

        Returns:
            Loss, votes to stop, gradient norm, that share.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss, kept = torch.zeros(2, device=self._world.device)
        taken = 0
        for batch in micro_batches:
            taken += len(batch.t)
            # Processes exchange gradients in the last backward pass of a step only.
            with self._unreduced() if taken < self._rows else contextlib.nullcontext():
                part = self._loss(batch).sum() / self._rows
                part.backward(torch.full_like(part, self._seed))  # type: ignore[no-untyped-call]
            loss += part.detach()
            if batch.kept is not None:
                kept += batch.kept.mean(dtype=torch.float32) * len(batch.t) / self._rows
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        norm /= self._seed
        # One collective and one wait for the device a step: loss, request to stop and gradient norm together.
        vote = torch.full_like(loss, float(stop()))
        loss, votes, share = self._world.sum(torch.stack([loss / self._world.size, vote, kept / self._world.size]))
        if self._recipe.mask_norm is None:
            share = torch.ones_like(norm)
        # Known only now, and the same for all tokens of the step, so it divides the sums.
        return Fetched(torch.stack([loss / share, votes, norm / share, share]))

    def _overflowed(self, outcome: Fetched, meanwhile: Callable[[], None]) -> bool:
        """Whether a smaller loss scale, which is then set, can make the gradient finite; equal on all processes.

        The optimizer has to wait for the answer, since moving averages cannot be told to leave everything as it is.
        """
        meanwhile()
        loss, _, norm, _ = outcome.values().tolist()
        if self._loss_scale is None or self._loss_scale <= 1 or not math.isfinite(loss) or math.isfinite(norm):
            return False
        self._loss_scale /= 2
        if self._world.is_main:
            log.info(
                "Step %d: the gradient overflowed; again, with a loss scale of %g", self.step + 1, self._loss_scale
            )
        return True

    def warm_up_ddp(self, batch: MicroBatch) -> None:
        """Run one backward pass and forget it, so that later ones sum gradients in the same order in every start.

        Data-parallel training regroups gradients once, after the first pass; with three or more processes a resumed
        run would otherwise round its first step differently from an uninterrupted one.
        """
        if self._world.size > 1:
            self._loss(batch).sum().backward()  # type: ignore[no-untyped-call]
            self.optimizer.zero_grad(set_to_none=True)

    def trial_step(self, batch: MicroBatch) -> None:
        """Run one backward pass on this process alone and forget it, with the memory that later steps will need.

        Raises:
            torch.OutOfMemoryError: if there is too little.
        """
        self.optimizer.zero_grad(set_to_none=True)
        missing = 0 if self.optimizer.state else 2 * sum(parameter.nbytes for parameter in self.model.parameters())
        if self._world.device.type == "cuda":
            missing += int(SPARE * torch.cuda.get_device_properties(self._world.device).total_memory)
        moments = torch.empty(missing, dtype=torch.uint8, device=self._world.device)
        self._loss(batch, self.model).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad(set_to_none=True)
        del moments

    def state(self, recipe: dict[str, Any]) -> TrainState:
        """Return the state, sharing memory with the model."""
        return TrainState(
            step=self.step,
            model=self.model.state_dict(),
            averages={decay: average.state_dict() for decay, average in self.averages.items()},
            optimizer=self.optimizer.state_dict(),
            recipe=recipe,
            versions={"python": platform.python_version(), "torch": str(torch.__version__), "code": code()},
            loss_scale=self._loss_scale,
        )

    def load(self, state: TrainState) -> None:
        """Go on from ``state``."""
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        for decay, average in self.averages.items():
            average.load_state_dict(state.averages[decay])
        self.step, self._loss_scale = state.step, state.loss_scale

    def _loss(self, batch: MicroBatch, model: nn.Module | None = None) -> torch.Tensor:
        """Loss per sample of a micro-batch, (n,) fp32."""
        x_t = self._flow.interpolate(batch.clean, batch.noise, batch.t)
        with autocast(x_t.device, self.precision):
            prediction = (model or self._forward)(x_t, batch.t, batch.y)
        return self._flow.loss(prediction.float(), batch.clean, batch.noise, batch.t, batch.kept)
