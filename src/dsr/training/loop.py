"""The training loop: one for every row, every number of processes and every kind of device."""

import contextlib
import logging
import statistics
import sys
import time
from typing import Any

import torch

from dsr.accel.device import set_arithmetic
from dsr.accel.models import accelerate, accelerated_encode
from dsr.base import files, tensors
from dsr.base.distributed import World
from dsr.base.errors import EXIT_STOPPED, UserError
from dsr.base.randomness import derive
from dsr.base.text import Progress
from dsr.config.specs import content
from dsr.data.images import open_images
from dsr.data.loading import StoppedError
from dsr.denoiser.dit import build_denoiser
from dsr.encoder.autoencoder import load_autoencoder
from dsr.flow import Flow
from dsr.training import checkpoint
from dsr.training.batches import Samples, Share, blank
from dsr.training.learner import Learner, NotFiniteError, StepResult
from dsr.training.process import StopRequest, exclusive, stop_request
from dsr.training.start import SPEC, Job, begin_from, check, decide
from dsr.training.trials import largest_share, memory_error, use_half_if_close

log = logging.getLogger(__name__)


def train(job: Job, world: World) -> bool:
    """Train to the job's milestone and publish its averages; False if asked to leave before (the state is saved).

    Raises:
        UserError: if the job cannot start or go on; the message says why and what to do. The last state is kept.
    """
    with contextlib.ExitStack() as stack:
        request = stack.enter_context(stop_request(job.minutes))

        def begin() -> tuple[int | None, bool]:
            check(job, world)
            stack.enter_context(exclusive(job.run_dir))
            begun = decide(job)
            files.write_json(job.run_dir / SPEC, content(job.spec))
            return begun

        resumed, nothing_left = world.on_main(begin)
        finished = nothing_left or _run(job, world, request, resumed)
        if finished and world.is_main:
            checkpoint.publish(job.spec, job.epoch, job.spec.recipe.ema[0], job.run_dir, job.output)
        world.barrier()
        return finished


def _run(job: Job, world: World, request: StopRequest, resumed: int | None) -> bool:
    """Train from the state of step ``resumed`` (None: the beginning); False if asked to leave before the end."""
    spec, execution = job.spec, job.execution
    set_arithmetic(spec.recipe.precision, execution.threads, deterministic=execution.deterministic)
    learner = _learner(job, world, resumed)
    if execution.micro_batch is None:
        share = largest_share(world, spec.recipe.batch, learner, spec.model)
    else:
        share = Share.of(world, spec.recipe.batch, execution.micro_batch)
    try:
        with contextlib.closing(_samples(job, world, share, request, learner.step)) as samples:
            learner.warm_up_ddp(blank(spec.model, share.micro_batch, world.device))
            return _loop(job, world, request, learner, samples)
    except torch.OutOfMemoryError as error:
        # A trial step can fit where a real one does not: memory has gaps, and other processes take some.
        raise memory_error(share, str(error)) from None


def _loop(job: Job, world: World, request: StopRequest, learner: Learner, samples: Samples) -> bool:
    """Report, checkpoint, leave if it is time to, step; False if asked to leave before the milestone."""
    recipe = job.recipe if world.is_main else {}
    saved_step, saved_at = learner.step, time.monotonic()
    result: StepResult | None = None
    with contextlib.ExitStack() as stack:
        metrics = (
            stack.enter_context(contextlib.closing(Metrics(job, learner.step, request.began)))
            if world.is_main
            else None
        )
        writer = stack.enter_context(checkpoint.Writer(job.run_dir))
        while True:
            if metrics is not None and result is not None:
                metrics.update(learner.step, result)

            # Only the first process writes; the others wait for it in the next step, or where they leave.
            finished, stopping = learner.step >= job.last_step, result is not None and result.stop
            due = time.monotonic() - saved_at >= 60.0 * job.execution.checkpoint_minutes
            if world.is_main and learner.step > saved_step and (due or finished or stopping):
                writer.save(learner.state(recipe))
                saved_step, saved_at = learner.step, time.monotonic()

            if finished:
                writer.finish()
                if world.is_main:
                    checkpoint.write_averages(job.run_dir, learner.state(recipe), job.spec, job.epoch)
                return True
            if stopping:
                writer.finish()
                if world.is_main:
                    log.warning(
                        "Stopped at step %d of %d (%s); the state is saved in %s: to go on, run the same command again",
                        learner.step, job.last_step, request.reason or "another process was asked to", job.run_dir,
                    )  # fmt: skip
                return False

            try:
                result = learner.update(
                    samples.next_step(), stop=lambda: bool(request.reason), meanwhile=samples.prepare
                )
            except StoppedError:
                # Other processes may be inside the step, which cannot be finished, so nothing is saved.
                log.warning("Stopped (%s) while no images came; %s is as it was", request.reason, job.run_dir)
                sys.exit(EXIT_STOPPED)
            except NotFiniteError as error:
                # The message names the newest state, so it must be there.
                writer.finish()
                raise _explained(error, job) if world.is_main else SystemExit(1) from None


def _learner(job: Job, world: World, resumed: int | None) -> Learner:
    """Build the denoiser and what trains it, with initial weights that depend on the seed only, or with a state.

    Where a state is going to overwrite the weights, they are not drawn: that takes a large model many seconds.
    """
    spec = job.spec
    torch.manual_seed(derive(spec.recipe.seed, "init"))
    with contextlib.nullcontext() if resumed is None else tensors.Blank():
        model = build_denoiser(spec.model, train_all=spec.recipe.train_all)
    if resumed is not None:
        model.to_empty(device=world.device)
    elif job.start is not None and spec.start is not None:
        begin_from(model, spec.start, spec.model, job.start)
    learner = Learner(model, Flow.from_config(spec.flow), spec.recipe, world, steps_per_epoch=spec.steps_per_epoch)
    if job.execution.compile:
        accelerate(model, world.device, learner.precision)
    if resumed is not None:
        began = time.monotonic()
        learner.load(checkpoint.load(checkpoint.state_path(job.run_dir, resumed), mapped=world.device.type == "cuda"))
        log.info(
            "Resumed at step %d, epoch %.2f; loading took %.1f s",
            learner.step, learner.step / spec.steps_per_epoch, time.monotonic() - began,
        )  # fmt: skip
    return learner


def _samples(job: Job, world: World, share: Share, request: StopRequest, first: int) -> Samples:
    """Open the images and the frozen encoder, from step ``first`` on."""
    autoencoder = load_autoencoder(
        job.spec.encoding, encoder=job.encoder, neurons=job.neurons, statistics=job.statistics, decoder=None
    ).to(world.device)
    images = open_images(job.images)
    if job.spec.recipe.precision == "fp16" and world.device.type == "cuda":
        use_half_if_close(autoencoder, job.spec, images, world)
    encode = accelerated_encode(autoencoder, world.device) if job.execution.compile else autoencoder.encode
    last, workers = job.last_step, job.execution.workers
    return Samples(
        job.spec, images, encode, world, share, first=first, last=last, workers=workers, stop=lambda: request.reason
    )


def _explained(error: NotFiniteError, job: Job) -> UserError:
    steps = checkpoint.state_steps(job.run_dir)
    kept = checkpoint.state_path(job.run_dir, steps[0]) if steps else "nothing (there was no checkpoint yet)"
    return NotFiniteError(
        f"Training stopped at {error}. The step was not taken; the last good state is {kept}. The same command would"
        " fail at the same step: lower recipe.lr, set recipe.clip, or raise recipe.precision."
    )


class Metrics:
    """Reports of the first process, on the steps from ``first`` on.

    Every ``log_every`` steps a line goes to ``metrics.jsonl`` in the run directory, with means over the steps since
    the line before; ``uptime`` is the time since the trainer began. Steps that were lost in a kill are done again, and
    so are their lines: of several lines with one step, the one with the highest ``restart`` counts.
    """

    def __init__(self, job: Job, first: int, began: float) -> None:
        self._began = began
        self._job, self._path, self._batch = job, job.run_dir / "metrics.jsonl", job.spec.recipe.batch
        previous = files.read_json_lines(self._path) if self._path.exists() else []
        self._restart = 1 + max((line["restart"] for line in previous), default=-1)
        self._step = first
        self._results: list[StepResult] = []
        self._board: Any = None
        if job.execution.tensorboard:
            # Imported where it is used: next to an installed TensorFlow it loads that, which takes seconds.
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(job.run_dir / "tensorboard"), purge_step=first + 1)  # type: ignore[no-untyped-call]
        self._progress = Progress(job.last_step * self._batch, first * self._batch)

    def update(self, step: int, result: StepResult) -> None:
        """Report that ``step`` steps are done, the last of them with ``result``."""
        self._step = step
        self._results.append(result)
        self._progress.move(step * self._batch)
        if step % self._job.execution.log_every == 0 or step == self._job.last_step:
            self._report()

    def close(self) -> None:
        """Report what is not yet reported, and finish the bar and TensorBoard's file."""
        if self._results:
            self._report()
        self._progress.close()
        if self._board is not None:
            self._board.close()

    def _report(self) -> None:
        step, results, self._results = self._step, self._results, []
        epoch = step / self._job.spec.steps_per_epoch
        values = {
            "loss": statistics.fmean(result.loss for result in results),
            "grad_norm": statistics.fmean(result.grad_norm for result in results),
            "lr": results[-1].lr,
        }
        speed = self._progress.report(
            step * self._batch,
            f"step {step} of {self._job.last_step}, epoch {epoch:.2f}, loss {values['loss']:.4f}, gradient norm"
            f" {values['grad_norm']:.3f}, lr {values['lr']:.3g}",
        )
        values["images_per_second"] = round(speed, 2)
        about: dict[str, Any] = {"steps": len(results), "time": round(time.time(), 3), "restart": self._restart}
        about["uptime"] = round(time.monotonic() - self._began, 1)
        if torch.cuda.is_available():
            values["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            about["gpu"] = torch.cuda.get_device_name()
        files.append_json_line(self._path, {"step": step, "epoch": epoch, **values, **about})
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"train/{name}", value, step)
