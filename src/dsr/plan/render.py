"""The plan as Markdown that also reads well on a terminal: time, and what is downloaded and kept on disk, in GB."""

import math
from collections.abc import Mapping, Sequence

from dsr.analysis.cost import denoiser_cost
from dsr.artifacts.manifest import Manifest
from dsr.base.text import duration, pipe_table
from dsr.config.load import Config
from dsr.plan.stages import Work, reported_sets, sample_sets, works
from dsr.plan.throughput import CORE, Job, Measurement, gpu_of, is_meant, speed

STAGES = ("encode", "train", "sample", "evaluate")

GIGABYTE = 1e9

CROP_BYTES = 0.67
"""Bytes of a prepared image over those of its pixels, as measured on photograph-like images (benchmarks/NOTES.md)."""

ACTIVATION_BYTES = 4 * (2048 + 2023)
"""Bytes of the Inception features of an image, pooled and spatial."""

STATES = 3
"""Training states in a run's folder while one is being written: that one, the newest, and the one before it."""

ARCHIVE = "ImageNet, one archive"


def markdown(config: Config, manifest: Manifest, measurements: Sequence[Measurement]) -> str:
    """Return what a configuration costs: time by row and stage, totals, disk, downloads, and where from."""
    gpu, gres = gpu_of(measurements, config.resources.train.gres), config.resources.train.gres
    found = works(config, manifest, measurements, gpu)
    parts = [f"# Plan: {config.name}"]
    if config.request("train").gpus:
        run = config.execution
        other = "" if gres is None or is_meant(gpu, gres) else f", because nothing was measured on {gres}"
        parts += [
            f"Estimated for {gpu}{other}: training on {run.nodes} node{'s' if run.nodes > 1 else ''} x {run.processes}"
            " GPUs, every GPU as fast as one alone. Waiting in queues, starting, compiling, register discovery and"
            " figures (minutes each) are not counted.",
            *("## Time by row and stage", _time_table(found), "## Totals", _total_table(found)),
        ]
    else:
        parts.append("This configuration asks for no GPU, and times are known for GPUs only.")
    if config.data.prepared and (crops := speed(measurements, CORE, Job(stage="prepare"))):
        hours = (config.data.train_images + config.data.validation_images) / crops.images_per_second / 3600
        jobs = 2 * config.data.shards
        parts.append(f"Preparing images: {hours:,.1f} core-hours in {jobs} jobs of {duration(hours / jobs)} each.")
    if early := _early_averages(config):
        parts += ["## Moving averages that are still partly initial weights", early]
    parts += ["## Disk", _size_table(disk(config, manifest))]
    parts += ["## Downloads", _size_table(downloads(config, manifest))]
    sources = [*dict.fromkeys(work.speed.measurement for work in found if work.speed)]
    if sources:
        parts += ["## Measurements behind this", _source_table(sources)]
    return "\n\n".join(parts) + "\n"


def _early_averages(config: Config) -> str:
    """Say of each milestone of a trained row how much of its initial weights is left, where that is above 1 %."""
    lines = []
    for row in (name for name, entry in config.rows.items() if entry.recipe):
        spec = config.train(row)
        for epoch in config.evaluation.epochs:
            if left := spec.recipe.initial_weights_left(epoch * spec.steps_per_epoch):
                lines.append(f"- {row}, epoch {epoch} ({epoch * spec.steps_per_epoch:,} steps): {left}")
    remedy = "Their images will be noisy: train longer, or put a smaller decay first in `recipe.ema`."
    return "\n".join([remedy, "", *lines]) if lines else ""


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
    for stage in STAGES:
        of_stage = [work for work in found if work.stage == stage]
        if of_stage:
            rows.append(total(stage, of_stage) if all(work.speed for work in of_stage) else [stage, "-", "-"])
    rows.append(total("all that is known", found))
    trained = {work.name for work in found if work.stage == "train"}
    longest = max((sum(work.hours for work in found if work.name == row) for row in trained), default=0.0)
    return pipe_table(header, [*rows, ["all rows side by side", "", duration(longest)]], header[1:])


def _size_table(items: Mapping[str, float | None]) -> str:
    if not items:
        return "None."
    rows = [[what, "?" if size is None else f"{size:,.1f}"] for what, size in items.items()]
    rows.append(["sum", f"{sum(size or 0.0 for size in items.values()):,.1f}"])
    return pipe_table(["what", "GB"], rows, ["GB"])


def _source_table(sources: Sequence[Measurement]) -> str:
    rows = [["" if cell is None else f"{cell}" for cell in entry.model_dump().values()] for entry in sources]
    return pipe_table([*Measurement.model_fields], rows)


def downloads(config: Config, manifest: Manifest) -> dict[str, float | None]:
    """What is fetched for the rows, None for unknown sizes: not what a path is given of, nor what is computed."""
    if config.data.source == "digits":
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
    wanted = [name for name in names if manifest.publishes(name) and not config.artifacts.get(name)]
    items = {name: manifest.artifacts[name].gigabytes for name in wanted}
    splits = [name for name in ("imagenet-train", "imagenet-validation") if not config.artifacts.get(name)]
    if config.data.source == "kaggle" and splits:
        items[ARCHIVE] = manifest.artifacts[splits[0]].gigabytes
    return items


def disk(config: Config, manifest: Manifest) -> dict[str, float | None]:
    """What lies in the results' folder when everything is done, and training has its states."""
    data, fetched = config.data, downloads(config, manifest)
    archive = fetched.pop(ARCHIVE, None)
    items: dict[str, float | None] = {
        "encoders, decoders, statistics, weights, evaluator": sum(size or 0.0 for size in fetched.values())
    }
    if archive is not None:
        items["ImageNet: the archive (remove it afterwards)"] = archive
        items[f"ImageNet: its images{' (remove them after preparing)' if data.prepared else ''}"] = archive
    image = 3 * data.image_size**2 / GIGABYTE
    images = data.train_images + data.validation_images
    if data.prepared:
        items[f"prepared images, {images:,}"] = images * image * CROP_BYTES
    trained = [row for row, entry in config.rows.items() if entry.recipe]
    # A float32 copy of the denoiser, and the number of averages, of every row that is trained.
    copies = [
        (4 * denoiser_cost(config.model(row)).parameters / GIGABYTE, len(config.averages(row))) for row in trained
    ]
    states = sum(STATES * copy * (3 + averages) for copy, averages in copies)
    items[f"training states of {len(trained)} rows"] = states
    # Every decay in the run's folder, and the first one published.
    milestones = len(config.evaluation.epochs) * sum(copy * (1 + averages) for copy, averages in copies)
    items["weights of their milestones"] = milestones
    sets = [images for row in config.rows for _, images in sample_sets(config, row)]
    # One of them is there twice while its parts are joined.
    items[f"samples, {len(sets)} sets"] = (sum(sets) + max(sets)) * image
    references = len([name for name in config.evaluation.references if name != "adm"])
    items["references"] = references * data.validation_images * image
    kept = len(config.evaluation.references) * data.validation_images
    if len(config.evaluation.references) > 1:
        kept += sum(images for row in config.rows for _, images in reported_sets(config, row))
    items["activations kept by the evaluation"] = kept * ACTIVATION_BYTES / GIGABYTE
    return items
