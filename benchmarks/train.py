"""Speed of training, by the trainer's own classes on real-size rows."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import inputs, machine
from benchmarks.encode import autoencoder
from dsr.accel.device import set_arithmetic
from dsr.accel.models import accelerate, accelerated_encode
from dsr.analysis.cost import denoiser_cost
from dsr.config.load import Config
from dsr.config.specs import TrainSpec
from dsr.data.images import open_images
from dsr.flow import Flow
from dsr.training.batches import Samples
from dsr.training.checkpoint import Writer
from dsr.training.learner import Learner
from dsr.training.trials import largest_share, use_half_if_close


class Clock:
    """Times of the parts of a step on the GPU, between marks."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, Any]] = []
        self.parts: dict[str, list[float]] = defaultdict(list)

    def mark(self, part: str) -> None:
        """Note that the GPU is at the end of ``part``."""
        self._marks.append((part, machine.recorded()))

    def watch(self, learner: Learner, encode: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Mark the learner's parts as it works, and return an ``encode`` that does so too."""

        def marked(pixels: torch.Tensor) -> torch.Tensor:
            self.mark("averages" if self._marks and self._marks[-1][0] == "optimizer" else "backward")
            latents = encode(pixels)
            self.mark("encode")
            return latents

        learner.model.register_forward_pre_hook(lambda *_: self.mark("noise, between steps"))
        learner.model.register_forward_hook(lambda *_: self.mark("forward"))
        learner.optimizer.register_step_pre_hook(lambda *_: self.mark("backward, norm"))
        learner.optimizer.register_step_post_hook(lambda *_: self.mark("optimizer"))
        return marked

    def close_step(self) -> None:
        """Sum the parts of the step that ends here."""
        self.mark("noise, between steps")
        machine.synchronize()
        sums: dict[str, float] = defaultdict(float)
        for (_, before), (part, event) in zip(self._marks, self._marks[1:], strict=False):
            sums[part] += before.elapsed_time(event) / 1000
        for part, total in sums.items():
            self.parts[part].append(total)
        self._marks = self._marks[-1:]

    def medians(self) -> dict[str, float]:
        """Milliseconds a step, by part."""
        return {part: round(1000 * statistics.median(times), 2) for part, times in self.parts.items()}


def specification(config: Config, row: str, precision: str, batch: int, images: int) -> TrainSpec:
    """Return a row of the paper at another batch, precision and number of images."""
    spec = config.train(row)
    recipe = spec.recipe.model_copy(update={"batch": batch, "precision": precision})
    return spec.model_copy(update={"recipe": recipe, "images": images})


def measure(
    config: Config,
    row: str,
    index: Path,
    *,
    precision: str,
    batch: int,
    fast: bool,
    ceiling: dict[str, float],
    deterministic: bool,
    steps: int,
    workers: int,
    profile: bool = False,
    checkpoint: Path | None = None,
) -> dict[str, Any]:
    """Train for some steps: first freely, for the speed, then with the GPU's clock, for the breakdown."""
    machine.fresh()
    world = machine.one_gpu(needed=fast)
    images = open_images(index)
    spec = specification(config, row, precision, batch, len(images))
    set_arithmetic(precision, 1, deterministic=deterministic)
    model, encoder = inputs.denoiser(spec.model), autoencoder(config, spec.encoding, world.device)
    if precision == "fp16" and fast:
        use_half_if_close(encoder, spec, images, world)
    began = time.perf_counter()
    if fast:
        accelerate(model, world.device, precision)
    learner = Learner(
        model,
        Flow.from_config(spec.flow),
        spec.recipe,
        world,
        steps_per_epoch=spec.steps_per_epoch,
    )
    share = largest_share(world, batch, learner, spec.model)
    clock = Clock()
    encode = accelerated_encode(encoder, world.device) if fast else encoder.encode
    with contextlib.closing(
        Samples(spec, images, clock.watch(learner, encode), world, share, first=0, workers=workers)
    ) as samples:

        def step() -> None:
            learner.update(samples.next_step(), stop=lambda: False, meanwhile=samples.prepare)

        step()
        machine.synchronize()
        first = time.perf_counter() - began
        for _ in range(3):
            step()

        def wall() -> float:
            """Seconds a step."""
            machine.synchronize()
            began = time.perf_counter()
            for _ in range(steps):
                step()
            machine.synchronize()
            return (time.perf_counter() - began) / steps

        speed = batch / wall()
        with _images_on_the_device(samples, world.device):
            # What is left of the difference is the wait for data.
            wait = batch / speed - wall()
        clock.close_step()
        clock.parts.clear()
        for _ in range(5):
            step()
            clock.close_step()
        achieved = 3 * denoiser_cost(spec.model).flops * speed
        result: dict[str, Any] = {
            "stage": "train",
            "row": row,
            "precision": precision,
            "batch": batch,
            "micro-batch": share.micro_batch,
            "encoder": "float16" if encoder.in_half else "tf32",
            "compiled": fast,
            "deterministic": deterministic,
            "images/s": speed,
            "TFLOP/s": achieved / 1e12,
            "of ceiling": achieved / ceiling[precision],
            "peak GiB": machine.peak_gib(),
            "first step s": first,
            "step (ms)": {
                "wall": round(1000 * batch / speed, 2),
                "wait for data": round(1000 * wait, 2),
                **clock.medians(),
            },
        }
        if profile:
            result["kernels (ms)"] = machine.kernel_times(lambda: [step() for _ in range(2)], 2)
        if checkpoint is not None:
            result["checkpoint"] = _checkpoint(checkpoint, learner, step)
            with _images_on_the_device(samples, world.device):
                result["checkpoint without loading"] = _checkpoint(checkpoint, learner, step)
    return result


@contextlib.contextmanager
def _images_on_the_device(samples: Samples, device: torch.device) -> Iterator[None]:
    """Give the same batch again and again, which is on the device already, as no loader does."""
    batches = samples._batches
    place, batch = next(batches)
    samples._batches = itertools.repeat((place, [values.to(device) for values in batch]))  # type: ignore[assignment]
    try:
        yield
    finally:
        samples._batches = batches


def _checkpoint(folder: Path, learner: Learner, step: Callable[[], None]) -> dict[str, float]:
    """Save the training state twice while training goes on, and compare the steps beside the second with others.

    States go to a temporary folder inside ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as run, Writer(Path(run)) as writer:
        return _saved_beside(writer, Path(run), learner, step)


def _saved_beside(writer: Writer, run: Path, learner: Learner, step: Callable[[], None]) -> dict[str, float]:
    def timed(action: Callable[[], None]) -> float:
        machine.synchronize()
        began = time.perf_counter()
        action()
        machine.synchronize()
        return time.perf_counter() - began

    def save() -> None:
        writer.save(learner.state({}))

    usual = statistics.median(timed(step) for _ in range(5))
    first = timed(save)
    writer.finish()
    copied = timed(save)
    beside, began = [], time.perf_counter()
    while not writer.idle():
        beside.append(timed(step))
    writing = time.perf_counter() - began
    writer.finish()
    stalled = copied + sum(beside) - usual * len(beside)
    size = max(path.stat().st_size for path in run.glob("state-*.pt")) / 2**30
    return {
        "GiB": round(size, 2),
        "first copy s": round(first, 2),
        "copy s": round(copied, 2),
        "write s": round(writing, 2),
        "stall s": round(stalled, 2),
        "of ten minutes": round(stalled / 600, 5),
    }
