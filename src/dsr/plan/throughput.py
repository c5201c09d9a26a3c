"""What has been measured: `throughput.csv` beside this file, a line a measurement, and which line serves a job."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from dsr.base.errors import UserError, first_problem
from dsr.config.base import Section

PACKAGED = Path(__file__).with_name("throughput.csv")
CORE = "CPU core"
"""What measurements without a GPU are of."""
HALF = ("bf16", "fp16")
"""Precisions whose matmuls are equally fast."""
CODE = ("rehearsal", "own", "release")
"""Whose code was measured, what says most about this cluster first."""
SAME = 0.01
"""Relative difference of arithmetic up to which a measurement is of the same networks."""

Stage = Literal["train", "sample", "encode", "evaluate", "prepare"]
"""train: encoder, and denoiser forward and backward; sample: all evaluations of the denoiser, and the decoder; encode:
images to latents; evaluate: sampled images through the network and the metrics; prepare: crops, per CPU core."""


class Job(Section):
    """What one image of a stage needs."""

    stage: Stage
    precision: str | None = None
    batch: int | None = None
    """Images per GPU (and backward pass)."""
    gflops: float | None = None
    """Of one image: matmuls and attention, two per multiply-add; a backward pass counts as two."""


class Measurement(Job):
    """One line: empty cells do not matter or are not known."""

    gpu: str
    """Name and memory, as in 'H100 80GB', or CORE."""
    denoiser: str | None = None
    registers: int | None = None
    encoder: str | None = None
    ttr: str | None = None
    """For readers, as the three before it; which networks are alike is told by their arithmetic."""
    images_per_second: float | None = None
    """Per GPU (or core); none: the batch did not fit into its memory."""
    memory_gb: float | None = None
    """Peak of the GPU's memory."""
    code: Literal["rehearsal", "own", "release"]
    """Whose: this project's on this cluster, or elsewhere, or the authors' public release's."""
    source: str
    """Where and how it was measured."""


class Speed(NamedTuple):
    """How fast a job is thought to be, per GPU (or core), and what was done to the measurement behind that."""

    images_per_second: float
    basis: str
    measurement: Measurement


def read(path: Path = PACKAGED) -> list[Measurement]:
    """Read measurements.

    Raises:
        UserError: naming file, line and column of what is wrong.
    """
    found = []
    with path.open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            try:
                found.append(Measurement.model_validate_strings({key: value for key, value in row.items() if value}))
            except ValidationError as error:
                raise UserError(f"{path}, line {number}: {first_problem(error)}") from None
    return found


def known(measured: Path | None) -> list[Measurement]:
    """Return what a rehearsal ``measured`` on this cluster, if there was one, and then what comes with the package."""
    return [*(read(measured) if measured else []), *read()]


def gpu_of(measurements: Sequence[Measurement], gres: str | None) -> str:
    """Name of the GPU to plan for: the one that a SLURM name such as 'gpu:h100:8' means, otherwise the first."""
    names = [entry.gpu for entry in measurements if entry.gpu != CORE]
    return next((name for name in names if is_meant(name, gres)), names[0])


def is_meant(gpu: str, gres: str | None) -> bool:
    """Whether a SLURM name means this GPU."""
    return gres is not None and gpu.split()[0].lower() in gres.lower().split(":")


def speed(measurements: Sequence[Measurement], gpu: str, job: Job) -> Speed | None:
    """Speed of a job on a GPU: measured, or scaled by arithmetic from the most similar measurement; None without one.

    A rehearsal on this cluster goes before other measurements, own code before the release's, the same precision before
    another one.
    """

    def distance(entry: Measurement) -> tuple[bool, bool, int, float, float]:
        return (
            entry.precision != job.precision,
            # For float32, TF32 says more than bf16, and for fp16 less.
            (entry.precision in HALF) != (job.precision in HALF),
            CODE.index(entry.code),
            _ratio(entry.gflops, job.gflops),
            _ratio(entry.batch, job.batch),
        )

    known = [entry for entry in measurements if (entry.gpu, entry.stage) == (gpu, job.stage)]
    entry = min((entry for entry in known if entry.images_per_second), key=distance, default=None)
    if entry is None or not entry.images_per_second:
        return None
    rate, notes = entry.images_per_second, ["measured"]
    if job.gflops and entry.gflops and abs(entry.gflops / job.gflops - 1) > SAME:
        rate, notes = rate * entry.gflops / job.gflops, ["scaled by GFLOPs"]
    elif (job.gflops is None) is not (entry.gflops is None):
        notes = ["taken from another network"]
    if entry.precision != job.precision:
        notes.append(f"at {entry.precision} (no measurement at {job.precision})")
    if entry.code != "own":
        notes.append({"release": "release's code", "rehearsal": "rehearsal on this cluster"}[entry.code])
    if job.batch and entry.batch and job.batch != entry.batch:
        notes.append(f"{entry.batch} images a GPU")
    return Speed(rate, ", ".join(notes), entry)


def _ratio(first: float | None, second: float | None) -> float:
    """How many times apart two numbers are, as a logarithm; 0 where one is not known."""
    return abs(math.log(first / second)) if first and second else 0.0
