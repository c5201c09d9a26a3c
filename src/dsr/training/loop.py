"""The training loop: one for every row, every number of processes and every kind of device."""

from __future__ import annotations

import contextlib
import logging
import time

import torch

from dsr.accel.arithmetic import set_arithmetic
from dsr.accel.denoiser import accelerate
from dsr.accel.encoder import accelerated_encode
from dsr.base import files
from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.base.randomness import derive
from dsr.config.specs import content
from dsr.data.images import open_images
from dsr.denoiser.build import build_denoiser
from dsr.encoder.autoencoder import load_autoencoder
from dsr.flow import Flow
from dsr.training import checkpoint, snapshot
from dsr.training.background import Writer
from dsr.training.batches import Samples, Share, blank
from dsr.training.fit import largest_share, memory_error
from dsr.training.learner import Learner, NotFiniteError, StepResult
from dsr.training.lock import exclusive
from dsr.training.progress import Progress
from dsr.training.start import SPEC, Job, Start, check, decide, on_main, share_step
from dsr.training.stop import StopRequest, stop_request

log = logging.getLogger(__name__)


def train(job: Job, world: World) -> bool:
    """Train to the job's milestone and publish its averages; False if asked to leave before (the state is saved).

    Raises:
        UserError: if the job cannot start or go on; the message says why and what to do. The last state is kept.
    """
    with contextlib.ExitStack() as stack:
        request = stack.enter_context(stop_request(job.minutes))

        def begin() -> Start:
            check(job, world)
            stack.enter_context(exclusive(job.run_dir))
            start = decide(job)
            files.write_json(job.run_dir / SPEC, content(job.spec))
            return start

        step, finished = share_step(world, on_main(world, begin))
        if not finished:
            finished = _run(job, world, request, step)
        if finished and world.is_main:
            best = snapshot.snapshot_path(job.run_dir, job.epoch, job.spec.recipe.ema[0])
            snapshot.publish(best, job.output, job.spec)
        world.barrier()
        return finished


def _run(job: Job, world: World, request: StopRequest, resumed: int) -> bool:
    """Train from the state of step ``resumed`` (-1: from the beginning); False if asked to leave before the end."""
    set_arithmetic(job.spec.recipe.precision, job.threads, deterministic=job.deterministic)
    batch = job.spec.recipe.batch
    learner = _learner(job, world, resumed=resumed >= 0)
    if resumed >= 0:
        learner.load(checkpoint.load(checkpoint.state_path(job.run_dir, resumed), mapped=world.device.type == "cuda"))
        log.info("Resumed at step %d, epoch %.2f", learner.step, learner.step / job.spec.steps_per_epoch)
    if job.micro_batch is None:
        share = largest_share(world, batch, learner, job.spec.model)
    else:
        share = Share.of(world, batch, job.micro_batch)
    learner.micro_batches = len(share.micro_batches)
    samples = _samples(job, world, share, learner.step)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(samples))
            learner.settle(blank(job.spec.model, share.micro_batch, world.device))
            progress = stack.enter_context(contextlib.closing(_progress(job, learner.step))) if world.is_main else None
            writer = stack.enter_context(Writer(job.run_dir))
            return _loop(job, world, request, learner, samples, writer, progress)
    except torch.OutOfMemoryError as error:
        # The rehearsal can say that it fits where it does not: memory has gaps, and other processes take some.
        raise memory_error(share, str(error)) from None


def _loop(
    job: Job,
    world: World,
    request: StopRequest,
    learner: Learner,
    samples: Samples,
    writer: Writer,
    progress: Progress | None,
) -> bool:
    """Report, checkpoint, leave if it is time to, step; False if asked to leave before the milestone."""
    recipe = job.recipe if world.is_main else {}
    saved_step, saved_at = learner.step, time.monotonic()
    result: StepResult | None = None
    while True:
        if progress is not None and result is not None:
            progress.update(learner.step, result)

        # Only the first process writes; the others wait for it in the next step, or where they leave.
        finished, stopping = learner.step >= job.last_step, result is not None and result.stop
        due = time.monotonic() - saved_at >= 60.0 * job.checkpoint_minutes
        if world.is_main and learner.step > saved_step and (due or finished or stopping):
            writer.save(learner.state(recipe))
            saved_step, saved_at = learner.step, time.monotonic()

        if finished:
            writer.finish()
            if world.is_main:
                snapshot.write(job.run_dir, learner, job.spec, job.epoch)
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
            result = learner.update(samples.next_step(), stop=lambda: bool(request.reason), meanwhile=samples.prepare)
        except NotFiniteError as error:
            # The message names the newest state, so it must be there.
            writer.finish()
            raise _explained(error, job) if world.is_main else SystemExit(1) from None


def _learner(job: Job, world: World, *, resumed: bool) -> Learner:
    """Build the denoiser, with initial weights that depend on the seed only, and what trains it.

    Where a state is going to overwrite the weights, they are not drawn: that takes a large model many seconds.
    """
    recipe = job.spec.recipe
    torch.manual_seed(derive(recipe.seed, "init"))
    with torch.device("meta") if resumed else contextlib.nullcontext():
        model = build_denoiser(job.spec.model, train_all=recipe.train_all)
    if resumed:
        model.to_empty(device=world.device)
    learner = Learner(
        model,
        Flow.from_config(job.spec.flow),
        recipe,
        world,
        steps_per_epoch=job.spec.steps_per_epoch,
    )
    if job.compile:
        accelerate(model, world.device, learner.precision)
    return learner


def _samples(job: Job, world: World, share: Share, first: int) -> Samples:
    """Open the images and the frozen encoder, from step ``first`` on."""
    autoencoder = load_autoencoder(
        job.spec.autoencoder, encoder=job.encoder, neurons=job.neurons, statistics=job.statistics, decoder=None
    ).to(world.device)
    if job.spec.recipe.encoder_half and world.device.type == "cuda":
        autoencoder.use_half()
    encode = accelerated_encode(autoencoder, world.device) if job.compile else autoencoder.encode
    images = open_images(job.images)
    return Samples(job.spec, images, encode, world, share, first=first, last=job.last_step, workers=job.workers)


def _progress(job: Job, first: int) -> Progress:
    return Progress(
        job.run_dir,
        first=first,
        last=job.last_step,
        steps_per_epoch=job.spec.steps_per_epoch,
        batch=job.spec.recipe.batch,
        log_every=job.log_every,
        tensorboard=job.tensorboard,
    )


def _explained(error: NotFiniteError, job: Job) -> UserError:
    steps = checkpoint.state_steps(job.run_dir)
    kept = checkpoint.state_path(job.run_dir, steps[0]) if steps else "nothing (there was no checkpoint yet)"
    return NotFiniteError(
        f"Training stopped at {error}. The step was not taken; the last good state is {kept}. The same command would"
        " fail at the same step: lower recipe.lr, set recipe.clip, or raise recipe.precision."
    )
