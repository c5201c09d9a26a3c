"""What a configuration costs: its jobs, how many images each of them sees, how long that takes, what is
downloaded and kept on disk (in GB)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dsr.analysis.cost import decoder_flops, denoiser_cost, transformer_flops
from dsr.artifacts.manifest import EncoderCheck, Manifest
from dsr.base.text import duration, pipe_table
from dsr.config.load import Config
from dsr.config.sampling import Guidance
from dsr.plan.throughput import CORE, Job, Measurement, Speed, Stage, gpu_of, is_meant, speed

ARCHIVE = "ImageNet, one archive"
CROP_BYTES = 0.67
"""Bytes of a prepared image over those of its pixels, as measured on photograph-like images (benchmarks/NOTES.md)."""
STATES = 3
"""Training states in a run's folder while one is being written: that one, the newest, and the one before it."""
BACKWARD = 3
"""Forward passes that a forward and a backward pass of the denoiser cost together."""


@dataclass(frozen=True)
class Work:
    """All jobs of one stage of one row, or of one encoder with or without TTR."""

    name: str
    label: str
    """What to call the stage."""
    stage: Stage
    images: int
    """Images that go through the networks, all jobs together."""
    gpus: int
    """GPUs that compute side by side."""
    held: int
    """GPUs that a job holds, computing or not."""
    minutes: int
    """Time limit of one job."""
    speed: Speed | None

    @property
    def hours(self) -> float:
        """Wall time, without waiting in a queue and without starting; 0 where no speed is known."""
        return self.images / (self.speed.images_per_second * self.gpus) / 3600 if self.speed else 0.0

    @property
    def gpu_hours(self) -> float:
        """Hours that GPUs are held."""
        return self.hours * self.held


def markdown(config: Config, manifest: Manifest, measurements: Sequence[Measurement]) -> str:
    """Return it as Markdown that also reads well on a terminal: time by row and stage, totals, downloads, sources."""
    gpu, gres = gpu_of(measurements, config.resources.train.gres), config.resources.train.gres
    found = works(config, manifest, measurements, gpu)
    parts = [f"# Plan: {config.name}"]
    if config.request("train").gpus:
        run = config.execution
        other = "" if gres is None or is_meant(gpu, gres) else f", because nothing was measured on {gres}"
        parts += [
            f"Estimated for {gpu}{other}: training on {run.nodes} node{'s' if run.nodes > 1 else ''} x {run.processes}"
            " GPUs, every GPU as fast as one alone. Waiting in queues, starting, compiling, register discovery,"
            " reconstructions and figures (minutes each) are not counted."
            + " Speeds of a rehearsal on this cluster are used."
            * any(one.code == "rehearsal" for one in measurements),
            *("## Time by row and stage", _time_table(found), "## Totals", _total_table(found)),
            *("## GPU-hours until a row is scored", _until_table(config, manifest, measurements, gpu)),
        ]
    else:
        parts.append("This configuration asks for no GPU, and times are known for GPUs only.")
    if config.data.prepared and (crops := speed(measurements, CORE, Job(stage="prepare"))):
        hours = (config.data.train_images + config.data.validation_images) / crops.images_per_second / 3600
        jobs = 2 * config.data.shards
        parts.append(f"Preparing images: {hours:,.1f} core-hours in {jobs} jobs of {duration(hours / jobs)} each.")
    early = [
        f"- {row}, epoch {epoch} ({steps:,} steps): {left}"
        for row in (name for name, entry in config.rows.items() if entry.recipe)
        for epoch in config.evaluation.epochs
        for steps in (epoch * config.train(row).steps_per_epoch,)
        if (left := config.train(row).recipe.initial_weights_left(steps))
    ]
    if early:
        remedy = "Their images will be noisy: train longer, or put a smaller decay first in `recipe.ema`."
        parts += ["## Moving averages that are still partly initial weights", remedy, "\n".join(early)]
    parts += ["## Disk", _size_table(disk(config, manifest))]
    parts += ["## Downloads", _size_table(downloads(config, manifest))]
    if sources := [*dict.fromkeys(work.speed.measurement for work in found if work.speed)]:
        rows = [["" if cell is None else f"{cell}" for cell in entry.model_dump().values()] for entry in sources]
        parts += ["## Measurements behind this", pipe_table([*Measurement.model_fields], rows)]
    return "\n\n".join(parts) + "\n"


def _time_table(found: Sequence[Work]) -> str:
    header = ["row or encoder", "stage", "images", "images/s a GPU", "GPUs", "wall time", "jobs", "GPU-hours", "from"]
    rows = []
    for work in found:
        rate = time = pieces = spent = "-"
        basis = "not measured" if work.gpus else "no GPU"
        if work.speed:
            rate, basis = f"{work.speed.images_per_second:.1f}", work.speed.basis
            time, spent = duration(work.hours), f"{work.gpu_hours:,.1f}"
            pieces = f"{max(1, math.ceil(work.hours * 60 / work.minutes))}"
        rows.append([work.name, work.label, f"{work.images:,}", rate, f"{work.gpus}", time, pieces, spent, basis])
    return pipe_table(header, rows, header[2:8]) + (
        "\n\n`jobs`: pieces that the time limits of `resources` cut this into; training and sampling go on by"
        " themselves."
    )


def _total_table(found: Sequence[Work]) -> str:
    def total(name: str, works: Sequence[Work]) -> list[str]:
        return [name, f"{sum(work.gpu_hours for work in works):,.0f}", duration(sum(work.hours for work in works))]

    header = ["stage", "GPU-hours", "wall time one after the other"]
    rows = []
    for stage in dict.fromkeys(work.stage for work in found):
        of_stage = [work for work in found if work.stage == stage]
        rows.append(total(stage, of_stage) if all(work.speed for work in of_stage) else [stage, "-", "-"])
    rows.append(total("all that is known", found))
    trained = {work.name for work in found if work.stage == "train"}
    longest = max((sum(work.hours for work in found if work.name == row) for row in trained), default=0.0)
    return pipe_table(header, [*rows, ["all rows side by side", "", duration(longest)]], header[1:])


def until(
    config: Config, manifest: Manifest, measurements: Sequence[Measurement], gpu: str, epoch: int
) -> dict[str, float]:
    """GPU-hours of every row until it is scored at an epoch, all epochs before it included; as far as they are known.

    Fetched weights have an epoch of their own, which counts whatever ``epoch`` is.
    """
    epochs = tuple(one for one in config.evaluation.epochs if one <= epoch)
    # Guidance is searched for at the last epoch only.
    sweep = config.sampling.sweep if epochs == config.evaluation.epochs else None
    cut = config.model_copy(
        update={
            "evaluation": config.evaluation.model_copy(update={"epochs": epochs}),
            "sampling": config.sampling.model_copy(update={"sweep": sweep}),
        }
    )
    hours = dict.fromkeys(config.rows, 0.0)
    for work in works(cut, manifest, measurements, gpu):
        if work.name in hours:
            hours[work.name] += work.gpu_hours
    return hours


def _until_table(config: Config, manifest: Manifest, measurements: Sequence[Measurement], gpu: str) -> str:
    epochs = config.evaluation.epochs
    columns = [until(config, manifest, measurements, gpu, epoch) for epoch in epochs]
    header = ["row", *(f"epoch {epoch}" for epoch in epochs)]
    rows = [[row, *(f"{column[row]:,.1f}" for column in columns)] for row in config.rows]
    rows.append(["all rows", *(f"{sum(column.values()):,.1f}" for column in columns)])
    return pipe_table(header, rows, header[1:])


def downloads(config: Config, manifest: Manifest) -> dict[str, float | None]:
    """What is fetched for the rows, None for unknown sizes: not what a path is given of, nor what is computed."""
    if config.stand_ins:
        return {}
    names = []
    for encoder in sorted({row.encoder for row in config.rows.values()}):
        names += [encoder, f"decoder-{encoder}"]
        if config.encoders[encoder].statistics == "released":
            passes = sorted({row.ttr for row in config.rows.values() if row.encoder == encoder})
            names += [f"statistics-{encoder}-{ttr}" for ttr in passes]
    names += [entry.weights.artifact for entry in config.rows.values() if entry.weights]
    names.append("inception-graph")
    if "adm" in config.evaluation.references:
        names.append("reference-imagenet256")
    wanted = [config.artifact(name) for name in names if not config.copies.get(name)]
    items = {name: manifest.artifacts[name].gigabytes for name in wanted if manifest.publishes(name)}
    splits = [name for name in ("imagenet-train", "imagenet-validation") if not config.copies.get(name)]
    if splits:
        items[ARCHIVE] = manifest.artifacts[splits[0]].gigabytes
    return items


def disk(config: Config, manifest: Manifest) -> dict[str, float | None]:
    """What lies in the results' folder when everything is done, and training has its states."""
    data, fetched = config.data, downloads(config, manifest)
    archive = fetched.pop(ARCHIVE, 0.0) or 0.0
    image, images = 3e-9 * data.image_size**2, data.train_images + data.validation_images
    trained = [row for row, entry in config.rows.items() if entry.recipe]
    # A float32 copy of the denoiser, and the number of averages, of every row that is trained.
    copies = [(4e-9 * denoiser_cost(config.model(row)).parameters, len(config.averages(row))) for row in trained]
    sets = [count for row in config.rows for _, count in sample_sets(config, row)]
    return {
        "encoders, decoders, statistics, weights, evaluator": sum(size or 0.0 for size in fetched.values()),
        "ImageNet: archive and images (remove them after preparing)": 2 * archive,
        "prepared images": images * image * CROP_BYTES * data.prepared,
        "training states": sum(STATES * copy * (3 + averages) for copy, averages in copies),
        # Every decay in the run's folder, and the first one published.
        "weights of milestones": len(config.evaluation.epochs) * sum(copy * (1 + n) for copy, n in copies),
        # One of them is there twice while its parts are joined.
        f"samples, {len(sets)} sets": (sum(sets) + max(sets)) * image,
        "reconstructions": len({(row.encoder, row.ttr) for row in config.rows.values()})
        * data.validation_images
        * image,
        "references": len({*config.evaluation.references} - {"adm"}) * data.validation_images * image,
    }


def _size_table(items: dict[str, float | None]) -> str:
    rows = [[what, "?" if size is None else f"{size:,.1f}"] for what, size in items.items()]
    rows.append(["sum", f"{sum(size or 0.0 for size in items.values()):,.1f}"])
    return pipe_table(["what", "GB"], rows, ["GB"]) if items else "None."


def works(config: Config, manifest: Manifest, measurements: Sequence[Measurement], gpu: str) -> list[Work]:
    """Return what the rows of a configuration need on GPUs of this name, encoders first."""

    def work(name: str, label: str, job: Job, images: int) -> Work:
        request = config.request("statistics" if job.stage == "encode" else job.stage)
        nodes = config.execution.nodes if job.stage == "train" else 1
        # The evaluator is one process; the others take a GPU each.
        processes = 1 if job.stage == "evaluate" else config.execution.processes
        gpus = processes * nodes if request.gpus else 0
        found = speed(measurements, gpu, job) if request.gpus else None
        return Work(name, label, job.stage, images, gpus, request.gpus * nodes, request.minutes, found)

    found = []
    for encoder, ttr in sorted({(row.encoder, row.ttr) for row in config.rows.values()}):
        # Without a release's file, statistics are computed whatever the configuration says.
        if config.encoders[encoder].statistics == "computed" or f"statistics-{encoder}-{ttr}" not in manifest.artifacts:
            job = encode_job(config, manifest, encoder, ttr)
            found.append(work(f"{encoder}-{ttr}", "encode", job, config.data.train_images))
    for row, entry in config.rows.items():
        if entry.recipe is not None:
            spec = config.train(row)
            images = spec.steps_per_epoch * config.evaluation.epochs[-1] * spec.recipe.batch
            found.append(work(row, "train", train_job(config, manifest, row), images))
        sets = sample_sets(config, row)
        for guided, label in ((False, "sample"), (True, "sample, guided")):
            part = [(setting, images) for setting, images in sets if (setting.scale > 1) is guided]
            if part:
                found.append(work(row, label, sample_job(config, row, part), sum(images for _, images in part)))
        scored = sum(images for _, images in sets) * len(config.evaluation.references)
        found.append(work(row, "evaluate", Job(stage="evaluate"), scored))
    return found


def sample_sets(config: Config, row: str) -> list[tuple[Guidance, int]]:
    """Every set of images that is drawn of a row: its guidance setting and its number of images."""
    sampling, epochs = config.sampling, len(config.epochs(row))
    settings, tried = [*sampling.guidance.values()] * epochs, []
    if sampling.sweep and row in sampling.sweep.rows:
        # Which setting is chosen is not known before; none costs more than guidance at every t.
        settings.append(Guidance(scale=max(sampling.sweep.scales)))
        tried = [(setting, sampling.sweep.images) for setting in sampling.sweep.candidates.values()]
    settings = settings * len(sampling.seeds) + [Guidance()] * (len(config.averages(row)) - 1) * epochs
    return [(setting, sampling.images) for setting in settings] + tried


def train_job(config: Config, manifest: Manifest, row: str) -> Job:
    """What a training image of a row needs; the encoder runs at TF32 whatever the denoiser's precision."""
    entry, spec, run = config.rows[row], config.train(row), config.execution
    encoder = encoder_flops(config, manifest, entry.encoder, entry.ttr)
    return Job(
        stage="train",
        precision=spec.recipe.precision,
        batch=run.micro_batch or spec.recipe.batch // (run.processes * run.nodes),
        gflops=(encoder + BACKWARD * denoiser_cost(spec.model).flops) / 1e9,
    )


def sample_job(config: Config, row: str, sets: Sequence[tuple[Guidance, int]]) -> Job:
    """What a sampled image of a row needs, averaged over sets of a guidance setting and a number of images."""
    entry = config.rows[row]
    passes = sum(images * _passes(config, setting) for setting, images in sets) / sum(images for _, images in sets)
    decoder = decoder_flops(config.autoencoder(entry.encoder, entry.ttr))
    flops = passes * denoiser_cost(config.model(row)).flops + decoder
    batch = config.execution.sample_batch
    return Job(stage="sample", precision=config.sampling.precision, batch=batch, gflops=flops / 1e9)


def encode_job(config: Config, manifest: Manifest, encoder: str, ttr: str) -> Job:
    """What an image needs to become a latent."""
    return Job(stage="encode", precision="tf32", gflops=encoder_flops(config, manifest, encoder, ttr) / 1e9 or None)


def encoder_flops(config: Config, manifest: Manifest, encoder: str, ttr: str) -> int:
    """FLOPs of an encoder's blocks for one image; 0 if the manifest does not know its shape."""
    entry = config.encoders[encoder]
    check = manifest.artifacts[encoder].check if encoder in manifest.artifacts else None
    if not isinstance(check, EncoderCheck) or check.width != entry.width:
        return 0
    tokens = entry.grid**2 + (config.ttr_options.registers if ttr != "none" else 0)
    return transformer_flops(check.width, check.depth, check.intermediate_size, tokens)


def _passes(config: Config, setting: Guidance) -> int:
    """Forward passes of an image: one for each of the solver's steps, and a second one where guidance acts."""
    shift, steps = config.flow.shift, config.sampling.steps
    grid = [1 - step / (steps - 1) for step in range(steps - 1)]
    times = [shift * u / (1 + (shift - 1) * u) for u in grid]
    first, last = setting.interval
    return steps - 1 + sum(setting.scale > 1 and first <= time <= last for time in times)
