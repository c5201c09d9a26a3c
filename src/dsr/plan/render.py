"""The plan as Markdown that also reads well on a terminal: time, and what is downloaded, in GB."""

import math
from collections.abc import Sequence

from dsr.artifacts.manifest import Manifest
from dsr.base.text import duration, pipe_table
from dsr.config.load import Config
from dsr.plan.stages import Work, works
from dsr.plan.throughput import CORE, Job, Measurement, gpu_of, is_meant, speed


def markdown(config: Config, manifest: Manifest, measurements: Sequence[Measurement]) -> str:
    """Return what a configuration costs: time by row and stage, totals, downloads, and where from."""
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
    sizes = [[what, "?" if size is None else f"{size:,.1f}"] for what, size in downloads(config, manifest).items()]
    total = sum(size or 0.0 for size in downloads(config, manifest).values())
    parts += [
        "## Downloads",
        pipe_table(["what", "GB"], [*sizes, ["sum", f"{total:,.1f}"]], ["GB"]) if sizes else "None.",
    ]
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
    if splits:
        items["ImageNet, one archive"] = manifest.artifacts[splits[0]].gigabytes
    return items
