"""Where the results come from: code, configuration, versions, hardware and time."""

import math
import os
import platform
import re
from collections.abc import Mapping
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from dsr.base.files import read_json_lines, write_json, write_text
from dsr.base.programs import git_state, output_of
from dsr.base.text import pipe_table
from dsr.config.base import Section
from dsr.config.load import Config
from dsr.config.specs import spec_hash
from dsr.report.entries import Entries
from dsr.report.render import fill, page

PACKAGES = (
    *("torch", "torchvision", "transformers", "timm", "tensorflow", "numpy", "scipy", "pandas"),
    *("matplotlib", "pydantic", "safetensors", "snakemake"),
)
"""Packages whose versions are recorded, where they are installed."""
STAGES = ("train", "sample", "evaluate")
"""Stages of a row whose time is summed."""

Seconds = dict[str, dict[str, dict[str, float]]]
"""Wall time of every job by row (or encoder) and stage."""


class Times(Section):
    """What tells how long all jobs took; a file that does not exist is left out."""

    folder: Path
    """Folder of Snakemake's benchmarks: `{job}.tsv`."""
    jobs: dict[str, dict[str, tuple[str, ...]]]
    """Names of jobs by row (or encoder) and stage: of all seeds, moving averages, guidance and references."""
    records: dict[str, Path]
    """The trainer's metrics file by row."""

    def read(self) -> Seconds:
        """Return the wall time of every job, all repeats of its benchmark together."""
        return {
            name: {
                stage: {
                    job: float(pd.read_csv(path, sep="\t")["s"].sum())
                    for job in jobs
                    if (path := self.folder / f"{job}.tsv").exists()
                }
                for stage, jobs in stages.items()
            }
            for name, stages in self.jobs.items()
        }


def write_provenance(
    config: Config,
    entries: Entries,
    source: Path,
    times: Times,
    environments: tuple[Path, ...],
    json: Path,
    markdown_file: Path,
    html: Path,
) -> None:
    """Record where the results come from: code, configuration, versions, hardware and wall time.

    Hardware and installed packages are those of the machine and environment that run this; jobs may run elsewhere.

    Args:
        config: the configuration.
        entries: the results.
        source: folder of the code, inside or outside a git checkout.
        times: files that tell how long the jobs of rows and encoders took.
        environments: conda environment files whose pinned versions are recorded.
        json: JSON file to write.
        markdown_file: Markdown file to write.
        html: page of its own to write.
    """
    entries.require(config)
    seconds = times.read()
    versions = {found.name: found.version for found in metadata.distributions()}
    needed = [one for file in environments for one in yaml.safe_load(file.read_text(encoding="utf-8"))["dependencies"]]
    record = {
        "name": config.name,
        "code": git_state(source),
        "configuration": spec_hash(config),
        "rows": {
            name: f"weights {row.fetched.artifact}" if row.fetched else spec_hash(config.train(name))
            for name, row in config.rows.items()
        },
        "python": platform.python_version(),
        "installed": {name: versions[name] for name in PACKAGES if name in versions},
        "pinned": sorted({pin for entry in needed if isinstance(entry, dict) for pin in entry["pip"] if "==" in pin}),
        "hardware": _hardware(),
        "wall_seconds": {job: s for stages in seconds.values() for jobs in stages.values() for job, s in jobs.items()},
        "row_times": row_times(config, times, seconds),
        "gpus": {stage: gpus(config, stage) for stage in STAGES},
    }
    write_json(json, record)
    write_text(markdown_file, text := markdown(record))
    write_text(html, page(text))


def row_times(config: Config, times: Times, jobs: Seconds) -> dict[str, dict[str, float]]:
    """Return seconds by stage and GPU-hours of every row of which something has run.

    A job counts for all the GPUs that it holds, busy or not. Snakemake knows a job's last attempt only; the trainer's
    record knows all of them, without their start. Training counts as the longer of the two.
    """
    found = {}
    for name, row in config.rows.items():
        seconds = {stage: math.fsum(jobs.get(name, {}).get(stage, {}).values()) for stage in STAGES}
        record = times.records.get(name)
        if record is not None and record.exists() and row.recipe is not None:
            batch = config.recipes[row.recipe].batch
            attempts = (line["steps"] * batch / line["images_per_second"] for line in read_json_lines(record))
            seconds["train"] = max(seconds["train"], float(sum(attempts)))
        if any(seconds.values()):
            hours = sum(seconds[stage] * gpus(config, stage) for stage in STAGES) / 3600
            found[name] = {**seconds, "gpu_hours": hours}
    return found


def gpus(config: Config, stage: str) -> int:
    """GPUs that a job of a stage holds, on all of its nodes."""
    nodes = config.execution.nodes if stage == "train" else 1
    return config.request(stage).gpus * nodes


def markdown(record: Mapping[str, Any]) -> str:
    """Write the record of :func:`write_provenance` as Markdown."""
    rows = [
        [
            name,
            *(_duration(times[stage]) for stage in STAGES),
            f"{times['gpu_hours']:.1f}" if any(record["gpus"].values()) else "-",
        ]
        for name, times in record["row_times"].items()
    ]
    jobs = {**record["wall_seconds"], "sum": sum(record["wall_seconds"].values())}
    lines = [[job, _duration(seconds)] for job, seconds in jobs.items()]
    return fill("provenance.md.j2", record=record, rows=rows, jobs=lines, pipe_table=pipe_table)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _hardware() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    cpu = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    gpus = output_of("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": cpu[1] if cpu else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": gpus.splitlines() if gpus else [],
    }
