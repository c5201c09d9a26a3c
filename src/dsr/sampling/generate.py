"""Draw a set of images, shared by any number of processes, and publish it as one npz."""

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from dsr.accel.device import set_arithmetic
from dsr.base import files, tensors
from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.base.text import Progress
from dsr.config.execution import Execution
from dsr.config.sampling import Guidance
from dsr.config.specs import ReconstructSpec, SampleSpec, content, spec_hash
from dsr.data import npz
from dsr.sampling.sampler import Drawing, Images, Sampler

log = logging.getLogger(__name__)

LARGEST = 500
"""Images in a shard at most: minutes of work, so an interruption loses no more."""
FEWEST = 16
"""Shards that a small set is split into all the same, for processes to share."""
SHOWN = 16
"""Images in TensorBoard: the same classes and noise at every milestone of a row."""
PATIENCE_MINUTES = 24 * 60.0
"""Processes wait this long for each other; they meet only after all of their shards. A lost one ends all at once."""

Start = Callable[[Sequence[int]], Drawing]
"""Begins to make the images of these numbers."""


@dataclass(frozen=True)
class SetJob:
    """A set of images to make."""

    statistics: Path
    """Latent statistics."""
    decoder: Path
    """Weights of the decoder."""
    shards: Path
    """Folder of finished parts, kept between calls until the images are published."""
    output: Path
    """Npz of the images (arr_0); what they were made from is written beside it, with the suffix .json."""
    execution: Execution
    """How the job runs."""

    def origin(self, spec: BaseModel, device: torch.device, **others: Path | None) -> dict[str, str]:
        """Return what determines the images; CPU and GPU draw different noise, so the kind of device is part of it."""
        inputs = {**others, "statistics": self.statistics, "decoder": self.decoder}
        hashes = {name: files.sha256(path) for name, path in inputs.items() if path}
        return {"specification": spec_hash(spec), **hashes, "device": device.type}


@dataclass(frozen=True)
class Job(SetJob):
    """A set of images to draw. Only ``spec`` and the contents of the three input files determine the images."""

    spec: SampleSpec
    """What determines the images, besides the contents of the files."""
    weights: Path
    """EMA weights of the denoiser."""
    guidance: Path | None = None
    """JSON file with scale and interval, where the specification has none."""
    board: Path | None = None
    """Folder of TensorBoard files to show the first images in, at the optimizer step of the weights."""

    def drawn(self) -> SampleSpec:
        """The specification with the guidance that images are drawn with."""
        if (self.guidance is None) == (self.spec.guidance is None):
            raise UserError("--guidance: expected a file exactly where the specification has no guidance")
        if self.guidance is None:
            return self.spec
        chosen = Guidance.model_validate_json(self.guidance.read_text(encoding="utf-8"))
        return self.spec.model_copy(update={"guidance": chosen})


def split(images: int) -> list[range]:
    """Split ``images`` into shards; the number of processes plays no part, so a resumed job may have another."""
    size = max(1, min(LARGEST, images // FEWEST))
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


class Shards:
    """The shards of one set of images in ``folder``.

    ``origin`` names everything that determines the images; it is stored in every shard, and a shard of another
    origin is stale. ``shape`` is (H, W, 3).
    """

    def __init__(self, folder: Path, origin: Mapping[str, str], images: int, shape: tuple[int, int, int]) -> None:
        self.parts = split(images)
        self._folder, self._origin, self._shape = folder, dict(origin), shape

    def path(self, number: int) -> Path:
        """Return the file of shard ``number``."""
        return self._folder / f"shard-{number:05d}.safetensors"

    def done(self) -> int:
        """Count the images of the shards whose files exist."""
        return sum(len(part) for number, part in enumerate(self.parts) if self.path(number).exists())

    def write(self, number: int, images: Images) -> None:
        """Write shard ``number``, uint8 (n, H, W, 3), atomically."""
        about = {"origin": self._origin, "sha256": _digest(images)}
        tensors.write(self.path(number), {"images": torch.from_numpy(images)}, about)

    def read(self, number: int) -> Images:
        """Read the images of shard ``number``, uint8 (n, H, W, 3)."""
        return tensors.read(self.path(number))["images"].numpy()

    def verify_or_delete(self, number: int) -> bool:
        """Return whether shard ``number`` is complete; one that is damaged or of another origin is removed."""
        path = self.path(number)
        if not path.exists():
            return False
        if problem := self._problem(number):
            log.warning("%s %s; removed, and sampled again", path, problem)
            path.unlink()
        return not problem

    def remove_leftovers(self) -> None:
        """Remove shards beyond this set, and temporary files of a killed process."""
        known = {self.path(number) for number in range(len(self.parts))}
        for path in [*self._folder.glob("shard-*.safetensors"), *self._folder.glob(".shard-*")]:
            if path not in known:
                log.info("%s is left over from another job; removed", path)
                path.unlink()

    def remove(self) -> None:
        """Remove all shards, and the folder if nothing else is in it."""
        for number in range(len(self.parts)):
            self.path(number).unlink(missing_ok=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _problem(self, number: int) -> str:
        """Return what is wrong with a shard's file ('' if nothing is)."""
        try:
            about, images = files.read_record(self.path(number)), self.read(number)
        except UserError as error:
            return f"is damaged ({error})"
        if others := [key for key in self._origin if about["origin"].get(key) != self._origin[key]]:
            return f"was sampled with another {' and another '.join(others)}"
        if images.shape != (len(self.parts[number]), *self._shape) or images.dtype != np.uint8:
            return f"holds {images.dtype} {images.shape}, which is not this shard"
        return "" if _digest(images) == about["sha256"] else "is damaged (its pixels fail their checksum)"


def _digest(images: Images) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def generate(job: Job, world: World) -> None:
    """Draw what is missing of the images and publish them; after an interruption, the same call goes on.

    Raises:
        UserError: if an input file is missing or does not fit the specification.
    """
    set_arithmetic(job.spec.precision, job.execution.threads)
    sampler = Sampler(
        job.drawn(),
        weights=job.weights,
        statistics=job.statistics,
        decoder=job.decoder,
        device=world.device,
        compiled=job.execution.compile,
    )
    origin = job.origin(job.drawn(), world.device, weights=job.weights)
    made = {
        "seed": job.spec.seed,
        "weights": {"sha256": origin["weights"], **files.read_record(job.weights)},
        "guidance": content(job.drawn())["guidance"],
    }
    complete(job, job.spec, sampler.start, origin, made, world)
    if world.is_main and job.board is not None and job.execution.tensorboard:
        # Imported where it is used: next to an installed TensorFlow it loads that, which takes seconds.
        from torch.utils.tensorboard import SummaryWriter

        images = next(npz.read_images(job.output))[:SHOWN]
        with SummaryWriter(str(job.board)) as board:  # type: ignore[no-untyped-call]
            board.add_images("samples", images, made["weights"]["step"], dataformats="NHWC")


def complete(
    job: SetJob,
    spec: SampleSpec | ReconstructSpec,
    start: Start,
    origin: Mapping[str, str],
    made: Mapping[str, Any],
    world: World,
) -> None:
    """Make what is missing of a set of images, and publish it with what it was made from.

    ``origin`` is what determines the images, and ``made`` what else is recorded of them.
    """
    shape = (spec.autoencoder.image_size, spec.autoencoder.image_size, 3)
    shards = Shards(job.shards, origin, spec.images, shape)
    missing = _missing(shards, world)
    log.info("%d of %d shards are to be made by %d processes", len(missing), len(shards.parts), world.size)
    draw(job.execution.sample_batch, start, shards, missing[world.rank :: world.size], world)
    world.barrier()
    if world.is_main:
        # One shard in memory at a time.
        stored = map(shards.read, range(len(shards.parts)))
        npz.write_images(job.output, stored, spec.images, shape)
        about = {
            "images": spec.images,
            "statistics_sha256": origin["statistics"],
            "decoder_sha256": origin["decoder"],
            "device": origin["device"],
            "versions": {"torch": str(torch.__version__)},
            "spec": content(spec),
            **made,
        }
        files.write_json(job.output.with_suffix(".json"), about)
        shards.remove()
        log.info("Wrote %d images to %s", spec.images, job.output)


def _missing(shards: Shards, world: World) -> list[int]:
    """Return the numbers of shards to draw, equal on all processes; each process verifies a part of the others."""
    if world.is_main:
        shards.remove_leftovers()
    kept = torch.zeros(len(shards.parts), dtype=torch.int64, device=world.device)
    for number in range(world.rank, len(shards.parts), world.size):
        kept[number] = shards.verify_or_delete(number)
    return (world.sum(kept) == 0).nonzero().flatten().tolist()


def draw(batch: int, start: Start, shards: Shards, numbers: list[int], world: World) -> None:
    """Draw and write the shards ``numbers``; a shard is written while the next one is drawn."""
    images, times = sum(map(len, shards.parts)), list[float]()
    with (
        contextlib.closing(Progress(images, shards.done())) if world.is_main else contextlib.nullcontext() as progress,
        ThreadPoolExecutor(max_workers=1) as writer,
    ):

        def write(number: int, drawings: Sequence[Drawing]) -> None:
            shards.write(number, np.concatenate([drawing() for drawing in drawings]))
            times.append(time.perf_counter())
            if progress is not None:
                done = shards.done()
                progress.report(done, f"{done} of {images} images")

        written: Future[None] | None = None
        for number in numbers:
            part = shards.parts[number]
            drawings = [start(part[first : first + batch]) for first in range(0, len(part), batch)]
            if written is not None:
                written.result()
            written = writer.submit(write, number, drawings)
        if written is not None:
            written.result()
    if world.is_main and len(times) > 1:
        # The first shard waited for the compiler.
        rest = sum(len(shards.parts[number]) for number in numbers[1:])
        log.info("%.1f images/s by this process, after its first shard", rest / (times[-1] - times[0]))
