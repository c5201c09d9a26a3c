"""From a step's number to its samples: which images, flips, labels, noise and times, whoever computes them."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dsr.base import randomness
from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.base.randomness import batch_indices, uniforms
from dsr.config.specs import ModelSpec, TrainSpec
from dsr.data.images import Images
from dsr.data.loading import Batch, Item, load
from dsr.flow import Flow
from dsr.training.process import ignore_stop_signals


@dataclass(frozen=True)
class MicroBatch:
    """Samples of one backward pass, on the training device."""

    clean: Tensor
    """Clean latents, (n, C, S, S) fp32."""
    noise: Tensor
    """Noise of the same shape."""
    t: Tensor
    """Times, (n,) fp32."""
    y: Tensor
    """Labels, (n,) int64; dropped ones are the null label."""
    kept: Tensor | None = None
    """Which tokens are in a masked loss, (n, S, S) bool; None: all of them."""


@dataclass(frozen=True)
class Share:
    """The samples of every global batch that one process computes, in micro-batches."""

    first: int
    """This process's first sample."""
    rows: int
    """This process's number of samples."""
    micro_batch: int
    """Samples of one backward pass."""

    @classmethod
    def of(cls, world: World, batch: int, micro_batch: int | None) -> "Share":
        """Split ``batch`` evenly over the processes; no ``micro_batch`` takes a process's part at once.

        Raises:
            UserError: if the numbers do not divide.
        """
        rows = batch // world.size
        micro_batch = micro_batch or rows
        if batch % world.size or rows % micro_batch:
            raise UserError(
                f"recipe.batch: {batch} is not divisible by {world.size} processes x a micro-batch of {micro_batch}"
            )
        return cls(world.rank * rows, rows, micro_batch)

    @property
    def parts(self) -> list[slice]:
        """Positions of each micro-batch in the global batch."""
        starts = range(self.first, self.first + self.rows, self.micro_batch)
        return [slice(start, start + self.micro_batch) for start in starts]

    def places(self, first: int, last: int = sys.maxsize) -> Iterator[tuple[int, slice]]:
        """(step, part) of every micro-batch of the steps from ``first`` on, before ``last``."""
        return ((step, part) for step in range(first, last) for part in self.parts)


def items(spec: TrainSpec, step: int, part: slice) -> list[Item]:
    """(image, flip) pairs of a part of a step's global batch."""
    seed, batch = spec.recipe.seed, spec.recipe.batch
    indices = batch_indices(seed, step, batch, spec.images)
    flips = (uniforms(seed, "flip", step, batch) < 0.5) & spec.flip
    return list(zip(indices[part].tolist(), flips[part].tolist(), strict=True))


class Samples:
    """Micro-batches of consecutive steps: images read ahead by ``workers`` processes, and encoded.

    Args:
        encode: pixels (n, 3, H, W), floats in [0, 1] -> latents (n, C, S, S).
        first: 0-based step that the first call of :meth:`next_step` gives.
        last: step before which the samples end.
        stop: whether to give up waiting for images.
    """

    def __init__(
        self,
        spec: TrainSpec,
        images: Images,
        encode: Callable[[Tensor], Tensor],
        world: World,
        share: Share,
        *,
        first: int,
        last: int = sys.maxsize,
        workers: int = 0,
        stop: Callable[[], object] = lambda: False,
    ) -> None:
        self._spec, self._encode, self._device, self._share = spec, encode, world.device, share
        self._flow = Flow.from_config(spec.flow)
        self._loaded = load(
            images,
            (items(spec, *place) for place in share.places(first, last)),
            workers=workers,
            pin_memory=world.device.type == "cuda",
            worker_init=ignore_stop_signals,
            stop=stop,
        )
        self._batches = zip(share.places(first, last), self._loaded, strict=False)
        self._ahead: MicroBatch | Exception | None = None

    def next_step(self) -> Iterator[MicroBatch]:
        """Micro-batches of the next step; take all of them before the step after.

        Raises:
            Exception: if one of them could not be made, also if that was found by :meth:`prepare`.
            ValueError: if there is no step left.
            StoppedError: if ``stop`` became true while no image came.
        """
        for _ in self._share.parts:
            micro_batch, self._ahead = self._ahead or self._next(), None
            if isinstance(micro_batch, Exception):
                raise micro_batch
            yield micro_batch

    def prepare(self) -> None:
        """Begin to make the next micro-batch, so that a GPU has something to do before it is asked for.

        An error is kept until then: the present step can still be finished, and saved if it was asked to be the last.
        """
        self._ahead = self._ahead or self._next()

    def close(self) -> None:
        """Stop the workers."""
        self._loaded.close()

    def _next(self) -> MicroBatch | Exception:
        try:
            found = next(self._batches, None)
            return ValueError("there are no samples after the last step") if found is None else self._make(*found)
        except Exception as error:
            return error

    def _make(self, place: tuple[int, slice], batch: Batch) -> MicroBatch:
        step, part = place
        seed, count = self._spec.recipe.seed, self._spec.recipe.batch
        pixels, labels = (values.to(self._device, non_blocking=True) for values in batch)
        latents = self._encode(pixels.float() / 255)
        positions = range(step * count + part.start, step * count + part.stop)
        noise = randomness.noise(seed, "noise", positions, latents.shape[1:], self._device)
        times = self._flow.times(torch.from_numpy(uniforms(seed, "time", step, count)).float())
        dropped = torch.from_numpy(uniforms(seed, "drop", step, count) < self._spec.model.denoiser.class_dropout)
        limit = self._spec.recipe.mask_norm
        return MicroBatch(
            clean=latents,
            # In memory as encoders leave latents, channels last: what combines the two is several times faster.
            noise=noise.contiguous(memory_format=torch.channels_last),
            t=self._sent(times[part]),
            y=labels.masked_fill(self._sent(dropped[part]), self._spec.model.classes),
            kept=None if limit is None else latents.norm(dim=1) < limit,
        )

    def _sent(self, values: Tensor) -> Tensor:
        """Copy to the device without waiting for what it is doing, which takes pinned memory."""
        return values.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else values


def blank(model: ModelSpec, images: int, device: torch.device) -> MicroBatch:
    """Zeros in the shape of a micro-batch."""
    x = torch.zeros(images, model.channels, model.grid, model.grid, device=device)
    y = torch.zeros(images, dtype=torch.int64, device=device)
    return MicroBatch(clean=x, noise=x, t=x.new_zeros(images), y=y)
