"""What a rehearsal found out on this cluster: a page for people, and measurements for the plan."""

import re
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dsr.artifacts import manifest as manifests
from dsr.artifacts.manifest import Manifest
from dsr.base.files import read_json_lines, write_text
from dsr.base.text import pipe_table
from dsr.config.base import Section
from dsr.config.load import Config
from dsr.plan.costs import sample_job, sample_sets, train_job
from dsr.plan.throughput import Measurement, read
from dsr.report.render import page as html_page

COLD = 2
"""Steps after a start that say nothing about the speed of the others."""
HEADER = [
    *("row", "starts", "memory GiB", "micro-batch", "images/s a GPU", "first step s", "save s", "MB/s", "load s"),
    *("blocks run by", "sampled images/s a GPU", "evaluation s"),
]


class RehearsedRow(Section):
    """Where the records of a row's jobs are."""

    run: Path
    """Folder of the training state."""
    log: Path
    """The trainer's log."""
    sample: Path
    """The sampler's log."""
    evaluate: Path
    """Snakemake's benchmark of the evaluation."""


class Rehearsed(Section):
    """What a rehearsal leaves behind."""

    rows: dict[str, RehearsedRow]
    made: dict[str, Path]
    """Files that are made where the paper's results have none: name -> path, a link if it is the real one."""


class Found(NamedTuple):
    """What the records of a row say, in the order of HEADER; None where they do not."""

    starts: int
    memory: float | None
    micro_batch: int | None
    speed: float | None
    """Images per second of a GPU."""
    first_step: float
    save: float | None
    """Seconds."""
    save_rate: int | None
    """MB per second."""
    load: float | None
    blocks: str
    sampled: float | None
    """Images per second of a GPU."""
    evaluation: float | None
    """Seconds, the start included."""
    gpu: str | None
    """No column: its name."""


def write_rehearsal(config: Config, rows: Rehearsed, markdown_file: Path, html: Path, measured: Path) -> None:
    """Write what a rehearsal found out.

    Args:
        config: the rehearsal's configuration.
        rows: where the records of its jobs are.
        markdown_file: Markdown file to write.
        html: page of its own to write.
        measured: CSV file of speeds to write, which the plan reads.
    """
    text, found = page(config, manifests.load(), rows)
    table = pd.DataFrame([entry.model_dump() for entry in found], columns=[*Measurement.model_fields], dtype=object)
    write_text(measured, table.to_csv(index=False))
    write_text(html, html_page(text))
    write_text(markdown_file, text)


def look(row: RehearsedRow, gpus: int) -> Found:
    """Read the records of a row's jobs; ``gpus`` trained it side by side."""
    lines, log = read_json_lines(row.run / "metrics.jsonl"), _text(row.log)
    starts = {restart: [one for one in lines if one["restart"] == restart] for restart in {x["restart"] for x in lines}}
    warm = [one["images_per_second"] for own in starts.values() for one in own[COLD:]]
    state = max((path.stat().st_size for path in row.run.glob("state-*.pt")), default=0)
    save = _last(r"Saved \S+ in ([\d.]+) s", log)
    fallback = re.findall(r"Not available here: (.*)", log)
    ways = re.findall(r"The blocks run by (.*)", log)
    benchmark = _text(row.evaluate).split()
    return Found(
        starts=len(starts),
        memory=max((one["peak_memory_gib"] for one in lines if "peak_memory_gib" in one), default=None),
        micro_batch=int(_last(r"Micro-batch: (\d+) of", log) or 0) or None,
        speed=statistics.median(warm) / gpus if warm else None,
        first_step=max(own[0]["uptime"] for own in starts.values()),
        save=save,
        save_rate=round(state / save / 1e6) if save else None,
        load=_last(r"loading took ([\d.]+) s", log),
        blocks=f"FALLBACK: {fallback[-1]}" if fallback else ways[-1] if ways else "PyTorch, as on every CPU",
        sampled=_last(r"([\d.]+) images/s by this process", _text(row.sample)),
        # Two lines: names, and values of which the first are the seconds.
        evaluation=float(benchmark[len(benchmark) // 2]) if benchmark else None,
        gpu=lines[-1].get("gpu"),
    )


def page(config: Config, manifest: Manifest, given: Rehearsed) -> tuple[str, list[Measurement]]:
    """Return the page as Markdown, and what the plan can use of it."""
    gpus = config.execution.processes * config.execution.nodes
    found = {name: look(row, gpus) for name, row in given.rows.items() if (row.run / "metrics.jsonl").exists()}
    made = [name for name, path in given.made.items() if not path.is_symlink()]
    parts = [
        f"# {config.name}",
        "Nothing here is a result: the images are noise, and training took a few steps. What it says is whether every"
        " kind of job runs here, how fast, and in how much memory.",
        f"Made, with random weights: {', '.join(made)}." if made else "All weights were the real ones.",
        pipe_table(HEADER, [[name, *map(_cell, one[:-1])] for name, one in found.items()], HEADER[1:9]),
        "Training was stopped once on purpose and went on (two starts). `first step`: from the trainer's start, without"
        " imports, the longer of the two. `save`: to disk, while training goes on; MB/s of that. Evaluation includes"
        " its start and the reference's activations, where they were not known.",
    ]
    parts += [f"NOT TRAINED: {name}." for name in given.rows if name not in found]
    parts += [f"NOT SCORED: {name}." for name, one in found.items() if one.evaluation is None]
    parts += [f"NOT RESUMED: {name}, which had one start." for name, one in found.items() if one.starts < 2]
    measured = [entry for name, one in found.items() for entry in measurements(config, manifest, name, one)]
    if measured:
        parts.append("`snakemake --cores 1 plan` now plans the paper's rows for this cluster with these speeds.")
    return "\n\n".join(parts) + "\n", measured


def _cell(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def measurements(config: Config, manifest: Manifest, row: str, one: Found) -> list[Measurement]:
    """Return what the plan can use of a row: nothing of a CPU's."""
    if one.gpu is None:
        return []
    entry = config.rows[row]
    about: dict[str, Any] = {"gpu": plan_name(one.gpu), "denoiser": entry.denoiser, "registers": entry.registers}
    about |= {"encoder": entry.encoder, "ttr": entry.ttr, "code": "rehearsal", "source": f"rehearsal, {row}"}
    train, sample = train_job(config, manifest, row), sample_job(config, row, sample_sets(config, row))
    speeds = [(train, one.speed, one.micro_batch, one.memory), (sample, one.sampled, None, None)]
    return [
        Measurement(**{**dict(job), "batch": batch, **about}, images_per_second=round(speed, 1), memory_gb=memory)
        for job, speed, batch, memory in speeds
        if speed
    ]


def plan_name(gpu: str) -> str:
    """Name of a GPU as the packaged measurements have it, if they have it: 'NVIDIA H200' is 'H200 141GB'."""
    words = gpu.split()
    return next((one.gpu for one in read() if one.gpu.split()[0] in words), " ".join(words[1:]) or gpu)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _last(pattern: str, text: str) -> float | None:
    found = re.findall(pattern, text)
    return float(found[-1]) if found else None
