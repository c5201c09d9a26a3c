"""The model under training and the one thing that changes it: a step over a global batch."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dsr.config import Recipe
from dsr.distributed import World
from dsr.errors import UserError
from dsr.flow import Flow
from dsr.training.batches import MicroBatch
from dsr.training.checkpoint import TrainState
from dsr.training.optim import MovingAverage, gradient_norm, learning_rate, make_optimizer, set_learning_rate


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


def set_arithmetic(precision: str, threads: int, *, deterministic: bool) -> None:
    """Set the process-wide arithmetic: CPU threads, and TF32 on GPUs unless ``precision`` is fp32.

    For a given number of processes and threads, CPUs always compute the same bits. GPUs do so if ``deterministic``,
    which cost 5 % of the speed on an H200; without it, sums of attention's backward pass depend on timing.
    """
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"
    if deterministic and torch.cuda.is_available():
        # cuBLAS reads this when it is first used, which is after here.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class Learner:
    """Denoiser, moving averages and optimizer, in step on all processes.

    Args:
        model: initial weights; those of the first process count.
        rows: samples of the global batch that belong to each process.
        micro_batches: backward passes that these are spread over.
    """

    def __init__(
        self,
        model: nn.Module,
        flow: Flow,
        recipe: Recipe,
        world: World,
        *,
        steps_per_epoch: int,
        micro_batches: int = 1,
    ) -> None:
        self.step = 0
        self.model = model.to(world.device).train()
        self._forward: nn.Module = self.model
        if world.size > 1:
            self._forward = DistributedDataParallel(self.model, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.optimizer = make_optimizer(recipe, self.model)
        self.averages = {str(decay): MovingAverage(self.model, decay) for decay in recipe.ema}
        self._flow, self._recipe, self._world = flow, recipe, world
        self._steps_per_epoch, self._micro_batches = steps_per_epoch, micro_batches
        self._rows = recipe.batch // world.size

    def update(self, micro_batches: Iterable[MicroBatch], *, stop: Callable[[], bool]) -> StepResult:
        """One optimizer step on this process's part of a global batch.

        A process whose ``stop`` is true makes ``stop`` true in everyone's result.

        Raises:
            NotFiniteError: on all processes, before weights, averages or optimizer have changed.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self._world.device)
        for number, batch in enumerate(micro_batches, start=1):
            with self._reduced_only_if(number == self._micro_batches):
                part = self._loss(batch).sum() / self._rows
                part.backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
        norm = gradient_norm(self.model.parameters())
        # One collective and one wait for the device a step: loss, request to stop and gradient norm together.
        shared = self._world.sum(torch.stack([loss / self._world.size, loss.new_tensor(float(stop()))]))
        mean_loss, votes, grad_norm = torch.cat([shared, norm.view(1)]).tolist()
        if not (math.isfinite(mean_loss) and math.isfinite(grad_norm)):
            raise NotFiniteError(f"step {self.step + 1}: loss {mean_loss}, gradient norm {grad_norm}")
        lr = learning_rate(self._recipe, self.step, self._steps_per_epoch)
        if self._recipe.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self._recipe.clip, norm)
        set_learning_rate(self.optimizer, lr)
        self.optimizer.step()
        for average in self.averages.values():
            average.update()
        self.step += 1
        return StepResult(mean_loss, grad_norm, lr, votes > 0)

    def settle(self, batch: MicroBatch) -> None:
        """Run one backward pass and forget it, so that later ones sum gradients in the same order in every start.

        Data-parallel training regroups gradients once, after the first pass; with three or more processes a resumed
        run would otherwise round its first step differently from an uninterrupted one.
        """
        if self._world.size > 1:
            self._loss(batch).sum().backward()  # type: ignore[no-untyped-call]
            self.optimizer.zero_grad(set_to_none=True)

    def state(self, recipe: dict[str, Any]) -> TrainState:
        """Return the state, sharing memory with the model."""
        return TrainState(
            step=self.step,
            model=self.model.state_dict(),
            averages={decay: average.state_dict() for decay, average in self.averages.items()},
            optimizer=self.optimizer.state_dict(),
            recipe=recipe,
            versions={
                "python": platform.python_version(),
                "torch": str(torch.__version__),
            },
        )

    def load(self, state: TrainState) -> None:
        """Go on from ``state``."""
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        for decay, average in self.averages.items():
            average.load_state_dict(state.averages[decay])
        self.step = state.step

    def _loss(self, batch: MicroBatch) -> torch.Tensor:
        """Loss per sample of a micro-batch, (n,) fp32."""
        x_t = self._flow.interpolate(batch.x1, batch.x0, batch.t)
        autocast = torch.autocast(x_t.device.type, torch.bfloat16, enabled=self._recipe.precision == "bf16")
        with autocast:
            prediction = self._forward(x_t, batch.t, batch.y)
        return self._flow.loss(prediction.float(), batch.x1, batch.x0, batch.t)

    def _reduced_only_if(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Let processes exchange gradients in the last backward pass of a step only."""
        if last or not isinstance(self._forward, DistributedDataParallel):
            return contextlib.nullcontext()
        return cast(contextlib.AbstractContextManager[None], self._forward.no_sync())
