"""Whether a training step fits into a GPU's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsr.artifacts.manifest import Manifest
from dsr.config.load import Config
from dsr.plan import arithmetic
from dsr.plan.stages import per_gpu, recipe_of, tower, train_job
from dsr.plan.throughput import Job, Measurement, is_same, memory_of

GIGABYTE = 1e9

MOMENTS = 4
"""Tensors of a parameter in float32 besides its averages: weight, gradient, and AdamW's two."""


@dataclass(frozen=True)
class Step:
    """A training step on one GPU whose images do not fit at once."""

    rows: tuple[str, ...]
    precision: str
    images: int
    """Images of the step on one GPU."""
    needed: Sequence[float]
    """GB for all of them in one backward pass, ascending over the rows."""
    fits: int | None
    """Most of them that fit in one backward pass; None: not even one."""
    chosen: int | None
    """The configuration's micro_batch."""
    chosen_needs: float | None
    """GB for that."""
    tried: bool
    """Whether running out of memory was measured, and not only derived."""


def oversized(config: Config, manifest: Manifest, measurements: Sequence[Measurement], gpu: str) -> list[Step]:
    """Return the steps that do not fit at once; rows that are alike count as one."""
    limit = memory_of(gpu)
    if limit is None or not config.resources.train.gpus:
        return []
    need = _Memory(config, manifest, [entry for entry in measurements if (entry.gpu, entry.stage) == (gpu, "train")])
    groups: dict[tuple[str, int, int | None], list[str]] = {}
    for row in (name for name, entry in config.rows.items() if entry.recipe):
        images = per_gpu(config, row)
        if (need.of(row, images) or 0.0) > limit:
            sizes = [size for size in range(1, images) if images % size == 0]
            most = max((size for size in sizes if (need.of(row, size) or 0.0) <= limit), default=None)
            groups.setdefault((recipe_of(config, row).precision, images, most), []).append(row)
    chosen = config.execution.micro_batch
    return [
        Step(
            rows=tuple(rows),
            precision=precision,
            images=images,
            needed=sorted(need.of(row, images) or 0.0 for row in rows),
            fits=most,
            chosen=chosen,
            chosen_needs=max(need.of(row, chosen) or 0.0 for row in rows) if chosen else None,
            tried=need.failed(precision, images),
        )
        for (precision, images, most), rows in groups.items()
    ]


@dataclass(frozen=True)
class _Memory:
    """What training needs, from the measurements on one GPU."""

    config: Config
    manifest: Manifest
    measurements: Sequence[Measurement]

    def of(self, row: str, images: int) -> float | None:
        """Peak in GB of a backward pass of so many images of a row; None without a measurement at its precision.

        Weights, gradients, AdamW's moments and averages are counted. Activations grow with the number of images and
        with the denoiser's arithmetic, from the measurement of the same networks, or of any, whose number of images is
        nearest.
        """
        job = train_job(self.config, self.manifest, row)
        known = [
            (
                (entry.code != "own", not is_same(entry, job), abs(entry.batch - images)),
                (entry.memory_gb, entry.batch, self._denoiser(entry)),
            )
            for entry in self.measurements
            if entry.memory_gb and entry.batch and entry.gflops and _alike(entry.precision, job.precision)
        ]
        if not known:
            return None
        _, (memory, batch, gflops) = min(known)
        state = state_gigabytes(self.config, row, MOMENTS + len(self.config.averages(row)))
        scale = self._denoiser(job) / gflops
        return state + (memory - state / scale) / batch * scale * images

    def failed(self, precision: str, images: int) -> bool:
        """Whether so many images, or fewer, were tried at a precision and did not fit."""
        return any(
            entry.images_per_second is None and _alike(entry.precision, precision) and (entry.batch or images) <= images
            for entry in self.measurements
        )

    def _denoiser(self, job: Job) -> float:
        """GFLOPs of a training image without its encoder, of which no activations are kept."""
        known = job.encoder in self.config.encoders
        encoder = tower(self.config, self.manifest, job.encoder or "", job.ttr or "none").flops if known else 0
        return (job.gflops or 0.0) - encoder / 1e9


def state_gigabytes(config: Config, row: str, tensors: int) -> float:
    """GB of ``tensors`` copies of a row's denoiser in float32."""
    return arithmetic.denoiser(config.model(row)).parameters * 4 * tensors / GIGABYTE


def _alike(first: str | None, second: str | None) -> bool:
    """Whether two precisions keep activations of the same size."""
    return (first == "bf16") == (second == "bf16")
