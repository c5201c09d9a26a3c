"""Which jobs a configuration means, how many images each of them sees, and how long that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dsr.artifacts.checks import EncoderCheck
from dsr.artifacts.manifest import Manifest
from dsr.config.load import Config
from dsr.config.sampling import Guidance
from dsr.config.training import Recipe
from dsr.plan import arithmetic
from dsr.plan.arithmetic import NOTHING, Size, Tower
from dsr.plan.throughput import Job, Measurement, Speed, Stage, speed

BACKWARD = 3
"""Forward passes that a forward and a backward pass of the denoiser cost together."""

CORE = "CPU core"
"""What measurements without a GPU are of."""

REQUESTS = {"train": "train", "sample": "sample", "encode": "statistics", "evaluate": "evaluate"}
"""Stage -> entry of the configuration's resources."""


@dataclass(frozen=True)
class Work:
    """All jobs of one stage of one row, or of one encoder."""

    name: str
    """Row, or encoder and TTR."""
    stage: Stage
    images: int
    """Images that go through the networks, all jobs of this stage together."""
    gpus: int
    """GPUs that compute side by side."""
    held: int
    """GPUs that a job holds, computing or not."""
    minutes: int
    """Time limit of one job."""
    speed: Speed | None
    """None where nothing is known."""
    label: str = ""
    """What to call it, if not by its stage."""

    @property
    def hours(self) -> float | None:
        """Wall time, without waiting in a queue and without starting."""
        return self.images / (self.speed.images_per_second * self.gpus) / 3600 if self.speed and self.gpus else None

    @property
    def gpu_hours(self) -> float | None:
        """Hours that GPUs are held."""
        return None if self.hours is None else self.hours * self.held


def works(config: Config, manifest: Manifest, measurements: Sequence[Measurement], gpu: str) -> list[Work]:
    """Return what the rows of a configuration need, encoders first."""
    found = []
    for encoder, ttr in sorted({(row.encoder, row.ttr) for row in config.rows.values()}):
        # Without a release's file, statistics are computed whatever the configuration says.
        if config.encoders[encoder].statistics == "computed" or f"statistics-{encoder}-{ttr}" not in manifest.artifacts:
            job = encode_job(config, manifest, encoder, ttr)
            found.append(_work(config, measurements, gpu, f"{encoder}-{ttr}", job, config.data.train_images))
    for row, entry in config.rows.items():
        if entry.recipe is not None:
            spec = config.train(row)
            images = spec.steps_per_epoch * config.evaluation.epochs[-1] * spec.recipe.batch
            found.append(_work(config, measurements, gpu, row, train_job(config, manifest, row), images))
        sets = sample_sets(config, row)
        for guided in (False, True):
            part = [(setting, images) for setting, images in sets if (setting.scale > 1) is guided]
            if part:
                drawn, job = sum(images for _, images in part), sample_job(config, row, part)
                work = _work(config, measurements, gpu, row, job, drawn)
                found.append(replace(work, label="sample, guided") if guided else work)
        scored = sum(images for _, images in sets) * len(config.evaluation.references)
        found.append(_work(config, measurements, gpu, row, Job(stage="evaluate"), scored))
    return found


def sample_sets(config: Config, row: str) -> list[tuple[Guidance, int]]:
    """Every set of images that is drawn of a row: its guidance setting and its number of images."""
    sampling, epochs = config.sampling, config.epochs(row)
    settings = [*sampling.guidance.values()] * len(epochs)
    sweep = sampling.sweep if sampling.sweep and row in sampling.sweep.rows else None
    if sweep:
        # Which setting is chosen is not known before; none costs more than guidance at every t.
        settings.append(Guidance(scale=max(sweep.scales)))
    sets = [(setting, sampling.images) for setting in settings for _ in sampling.seeds]
    sets += [(Guidance(), sampling.images)] * (len(config.averages(row)) - 1) * len(epochs)
    return sets + ([(setting, sweep.images) for setting in sweep.candidates.values()] if sweep else [])


def prepare_hours(config: Config, measurements: Sequence[Measurement]) -> float | None:
    """Core-hours of making the crops of both splits; None if nothing was measured."""
    found = speed(measurements, CORE, Job(stage="prepare"))
    images = config.data.train_images + config.data.validation_images
    return None if found is None else images / found.images_per_second / 3600


def train_job(config: Config, manifest: Manifest, row: str) -> Job:
    """What a training image of a row needs; the encoder runs at TF32 whatever the denoiser's precision."""
    entry = config.rows[row]
    encoder = tower(config, manifest, entry.encoder, entry.ttr)
    flops = encoder.flops + BACKWARD * arithmetic.denoiser(config.model(row)).flops
    return Job(
        stage="train",
        denoiser=entry.denoiser,
        registers=entry.registers,
        encoder=entry.encoder,
        ttr=entry.ttr,
        precision=recipe_of(config, row).precision,
        batch=config.execution.micro_batch or per_gpu(config, row),
        gflops=flops / 1e9,
    )


def sample_job(config: Config, row: str, sets: Sequence[tuple[Guidance, int]]) -> Job:
    """What a sampled image of a row needs, averaged over sets of a guidance setting and a number of images."""
    entry = config.rows[row]
    passes = sum(images * _passes(config, setting) for setting, images in sets) / sum(images for _, images in sets)
    flops = passes * arithmetic.denoiser(config.model(row)).flops
    flops += arithmetic.decoder(config.autoencoder(entry.encoder, entry.ttr)).flops
    return Job(
        stage="sample",
        denoiser=entry.denoiser,
        registers=entry.registers,
        encoder=entry.encoder,
        precision=config.sampling.precision,
        batch=config.execution.sample_batch,
        gflops=flops / 1e9,
    )


def encode_job(config: Config, manifest: Manifest, encoder: str, ttr: str) -> Job:
    """What an image needs to become a latent."""
    flops = tower(config, manifest, encoder, ttr).flops
    return Job(stage="encode", encoder=encoder, ttr=ttr, precision="tf32", gflops=flops / 1e9 if flops else None)


def tower(config: Config, manifest: Manifest, encoder: str, ttr: str) -> Size:
    """Size of an encoder's blocks; nothing if the manifest does not know its shape."""
    entry = config.encoders[encoder]
    check = manifest.artifacts[encoder].check if encoder in manifest.artifacts else None
    if not isinstance(check, EncoderCheck) or check.width != entry.width:
        return NOTHING
    tokens = entry.grid**2 + (config.ttr.registers if ttr != "none" else 0)
    shape = Tower(width=check.width, depth=check.depth, intermediate_size=check.intermediate_size, tokens=tokens)
    return arithmetic.transformer(shape)


def recipe_of(config: Config, row: str) -> Recipe:
    """Recipe of a row that is trained."""
    name = config.rows[row].recipe
    assert name is not None, "rows with fetched weights are not trained"
    return config.recipes[name]


def per_gpu(config: Config, row: str) -> int:
    """Images of a training step on each GPU."""
    return recipe_of(config, row).batch // (config.execution.processes * config.execution.nodes)


def _passes(config: Config, setting: Guidance) -> int:
    """Forward passes of an image: one for each of the solver's steps, and a second one where guidance acts."""
    shift, steps = config.flow.shift, config.sampling.steps
    if setting.scale == 1:
        return steps - 1
    grid = [1 - step / (steps - 1) for step in range(steps - 1)]
    times = [shift * u / (1 + (shift - 1) * u) for u in grid]
    first, last = setting.interval
    return steps - 1 + sum(first <= time <= last for time in times)


def _work(config: Config, measurements: Sequence[Measurement], gpu: str, name: str, job: Job, images: int) -> Work:
    request = getattr(config.resources, REQUESTS[job.stage])
    nodes = config.execution.nodes if job.stage == "train" else 1
    # The evaluator is one process; the others take a GPU each.
    processes = 1 if job.stage == "evaluate" else config.execution.processes
    return Work(
        name=name,
        stage=job.stage,
        images=images,
        gpus=processes * nodes if request.gpus else 0,
        held=request.gpus * nodes,
        minutes=request.minutes,
        speed=speed(measurements, gpu, job) if request.gpus else None,
    )
