"""The plan as Markdown that also reads well on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dsr.artifacts.manifest import Manifest
from dsr.base.durations import duration
from dsr.base.markup import pipe_table
from dsr.config.load import Config
from dsr.plan import memory, stages, storage
from dsr.plan.stages import Work
from dsr.plan.storage import Item
from dsr.plan.throughput import Measurement, gpu_of, is_meant, memory_of

STAGES = ("encode", "train", "sample", "evaluate")


def markdown(config: Config, manifest: Manifest, measurements: Sequence[Measurement]) -> str:
    """Return what a configuration costs: time by row and stage, totals, memory, disk, downloads, and where from."""
    gpu = gpu_of(measurements, config.resources.train.gres)
    works = stages.works(config, manifest, measurements, gpu)
    parts = [
        f"# Plan: {config.name}",
        _introduction(config, gpu),
        *[f"**Warning.** {_sentence(step, gpu)}" for step in memory.oversized(config, manifest, measurements, gpu)],
        *(_times(works) if config.resources.train.gpus else []),
        *_notes(config, works, measurements),
        "## Disk",
        _item_table(storage.disk(config, manifest)),
        "## Downloads",
        _item_table(storage.downloads(config, manifest)) if storage.downloads(config, manifest) else "None.",
        *_sources(works),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(config: Config, gpu: str) -> str:
    run = config.execution
    if not config.resources.train.gpus:
        return "This configuration asks for no GPU, and times are known for GPUs only."
    place = f"{run.nodes} node{'s' if run.nodes > 1 else ''} x {run.processes} GPUs"
    gres = config.resources.train.gres
    other = "" if gres is None or is_meant(gpu, gres) else f", because nothing was measured on {gres}"
    return (
        f"Estimated for {gpu}{other}: training on {place}, every GPU as fast as one alone. Waiting in queues, starting,"
        " compiling, register discovery and figures (minutes each) are not counted."
    )


def _sentence(step: memory.Step, gpu: str) -> str:
    limit = memory_of(gpu)
    what = f"{step.precision.upper()} at {step.images} images per GPU ({', '.join(step.rows)})"
    measured = "; tried: out of memory" if step.tried else ""
    least, most = f"{step.needed[0]:.0f}", f"{step.needed[-1]:.0f}"
    said = (
        f"{what} does not fit on {limit:.0f} GB without accumulation or recomputation: it needs about"
        f" {least if least == most else f'{least} to {most}'} GB{measured}."
    )
    if step.fits is None:
        return f"{said} Not even one image does; use more GPUs or bf16."
    if step.chosen is None:
        return f"{said} execution.micro_batch: {step.fits} does; it is automatic, so the trainer finds what fits."
    if step.chosen <= step.fits:
        return (
            f"{said} execution.micro_batch: {step.chosen} does, with about {step.chosen_needs:.0f} GB; at most"
            f" {step.fits} would."
        )
    return f"{said} Neither does execution.micro_batch: {step.chosen}; set it to {step.fits} or less."


def _times(works: Sequence[Work]) -> list[str]:
    return ["## Time by row and stage", _time_table(works), "## Totals", _total_table(works)]


def _time_table(works: Sequence[Work]) -> str:
    header = ["row or encoder", "stage", "images", "images/s a GPU", "GPUs", "wall time", "jobs", "GPU-hours", "from"]
    rows = []
    for work in works:
        rate = f"{work.speed.images_per_second:.1f}" if work.speed else "-"
        hours, spent = work.hours, work.gpu_hours
        pieces = "-" if hours is None else f"{max(1, math.ceil(hours * 60 / work.minutes))}"
        basis = work.speed.basis if work.speed else "not measured" if work.gpus else "no GPU"
        cells = [work.name, work.label or work.stage, f"{work.images:,}", rate, f"{work.gpus}", duration(hours), pieces]
        rows.append([*cells, "-" if spent is None else f"{spent:,.1f}", basis])
    return pipe_table(header, rows, header[2:8]) + (
        "\n\n`jobs`: pieces that the time limits of `resources` cut this into; training and sampling go on by"
        " themselves."
    )


def _total_table(works: Sequence[Work]) -> str:
    header = ["stage", "GPU-hours", "wall time one after the other"]
    rows = []
    for stage in STAGES:
        of_stage = [work for work in works if work.stage == stage]
        if of_stage and all(work.hours is not None for work in of_stage):
            rows.append([stage, f"{_sum_gpu(of_stage):,.0f}", duration(_sum_hours(of_stage))])
        elif of_stage:
            rows.append([stage, "-", "-"])
    rows.append(["all that is known", f"{_sum_gpu(works):,.0f}", duration(_sum_hours(works))])
    rows_of = {work.name for work in works if work.stage == "train"}
    longest = max((_sum_hours([work for work in works if work.name == row]) for row in rows_of), default=0.0)
    rows.append(["all rows side by side", "", duration(longest)])
    return pipe_table(header, rows, header[1:])


def _notes(config: Config, works: Sequence[Work], measurements: Sequence[Measurement]) -> list[str]:
    notes = []
    unknown = [stage for stage in STAGES if any(w.stage == stage and w.hours is None and w.gpus for w in works)]
    if unknown:
        notes.append(f"Not measured, so in no total: {', '.join(unknown)}.")
    hours = stages.prepare_hours(config, measurements)
    if hours is not None and config.data.prepared:
        jobs = 2 * config.data.shards
        notes.append(f"Preparing images: {hours:,.1f} core-hours in {jobs} jobs of {duration(hours / jobs)} each.")
    return notes


def _item_table(items: Sequence[Item]) -> str:
    rows = [[item.what, "?" if item.gigabytes is None else f"{item.gigabytes:,.1f}"] for item in items]
    rows.append(["sum", f"{sum(item.gigabytes or 0.0 for item in items):,.1f}"])
    return pipe_table(["what", "GB"], rows, ["GB"])


def _sources(works: Sequence[Work]) -> list[str]:
    used = {work.speed.measurement: None for work in works if work.speed}
    if not used:
        return []
    header = ["stage", "networks", "precision", "images", "images/s", "GB", "whose code", "source"]
    rows = []
    for entry in used:
        network = [entry.denoiser, f"{entry.registers} registers" if entry.registers else None, entry.encoder]
        if entry.ttr not in (None, "none"):
            network.append(f"{entry.ttr} TTR")
        about = (entry.precision, entry.batch, entry.images_per_second, entry.memory_gb, entry.code, entry.source)
        cells = [entry.stage, ", ".join(part for part in network if part), *about]
        rows.append(["" if cell is None else str(cell) for cell in cells])
    return ["## Measurements behind this", pipe_table(header, rows, header[3:6])]


def _sum_hours(works: Sequence[Work]) -> float:
    return sum(work.hours or 0.0 for work in works)


def _sum_gpu(works: Sequence[Work]) -> float:
    return sum(work.gpu_hours or 0.0 for work in works)
