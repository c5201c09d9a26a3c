"""Where the results come from: code, configuration, versions, hardware and time."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from dsr.base.errors import UserError
from dsr.base.markup import pipe_table
from dsr.config.load import Config
from dsr.config.specs import spec_hash
from dsr.report.hours import STAGES, gpus, row_times

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "tensorflow",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "pydantic",
    "safetensors",
    "snakemake",
)
"""Packages whose versions are recorded, where they are installed."""


def provenance(
    config: Config,
    source: Path,
    benchmarks: Mapping[str, Path],
    environments: Sequence[Path],
    records: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Return what is known about how the results were made.

    Hardware and installed packages are those of the machine and environment that run this; jobs may run elsewhere.

    Args:
        config: the configuration.
        source: folder of the code, inside or outside a git checkout.
        benchmarks: Snakemake's benchmark file of every job; one that does not exist is left out.
        environments: conda environment files whose pinned versions are recorded.
        records: the trainer's metrics file by row; one that does not exist is left out.
    """
    wall_seconds = {job: _seconds(path) for job, path in benchmarks.items() if path.exists()}
    installed = {name: _version(name) for name in PACKAGES}
    return {
        "name": config.name,
        "code": _git(source),
        "configuration": spec_hash(config),
        "rows": {
            name: f"weights {row.weights.artifact}" if row.weights else spec_hash(config.train(name))
            for name, row in config.rows.items()
        },
        "python": platform.python_version(),
        "installed": {name: version for name, version in installed.items() if version},
        "pinned": sorted({pin for file in environments for pin in _pins(file)}),
        "hardware": _hardware(),
        "wall_seconds": wall_seconds,
        "row_times": row_times(config, wall_seconds, records or {}),
        "gpus": {stage: gpus(config, stage) for stage in STAGES},
    }


def markdown(record: Mapping[str, Any]) -> str:
    """Write the record of :func:`provenance` as Markdown."""
    code, hardware = record["code"], record["hardware"]
    commit = "not in a git checkout" if code["commit"] is None else code["commit"]
    facts = {
        "Code": f"{commit} with uncommitted changes" if code["dirty"] else commit,
        "Configuration": record["configuration"],
        "Recipes of rows": ", ".join(f"{row} {value}" for row, value in record["rows"].items()),
        "Python": record["python"],
        "Installed": ", ".join(f"{name} {version}" for name, version in record["installed"].items()),
        "Pinned": ", ".join(record["pinned"]),
        "System": hardware["system"],
        "CPU": f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB memory",
        "GPUs": ", ".join(hardware["gpus"]) or "none",
    }
    parts = [
        f"# Provenance: {record['name']}",
        pipe_table(["", "Value"], [[*fact] for fact in facts.items() if fact[1]]),
    ]
    if record["row_times"]:
        parts += _row_times(record)
    if record["wall_seconds"]:
        rows = [[job, _duration(seconds)] for job, seconds in record["wall_seconds"].items()]
        rows.append(["sum", _duration(sum(record["wall_seconds"].values()))])
        note = "Wall time of the last attempt of every job, as Snakemake measured it; jobs may have run side by side."
        parts += ["## Time of each job", note, pipe_table(["Job", "h:mm:ss"], rows, ["h:mm:ss"])]
    return "\n\n".join(parts) + "\n"


def _row_times(record: Mapping[str, Any]) -> list[str]:
    header = ["Row", "Training", "Sampling", "Evaluation", "GPU-hours"]
    held, rows = record["gpus"], []
    for row, times in record["row_times"].items():
        spent = f"{times['gpu_hours']:.1f}" if any(held.values()) else "-"
        rows.append([row, *(_duration(times[stage]) for stage in STAGES), spent])
    note = (
        "Wall time (h:mm:ss) of all epochs that have run; sampling and evaluation count every seed, moving average, "
        "guidance setting (tried ones included) and reference, of the last attempt. Latent statistics and maps are not "
        f"part of it. GPUs held: {held['train']} in training, "
        f"{held['sample']} in sampling, {held['evaluate']} in evaluation. Training counts interrupted attempts too."
    )
    return ["## Time of each row", note, pipe_table(header, rows, header[1:])]


def _git(source: Path) -> dict[str, Any]:
    commit = _output("git", "-C", str(source), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(source), "status", "--porcelain") if commit else None
    return {"commit": commit, "dirty": bool(changes)}


def _hardware() -> dict[str, Any]:
    gpus = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": gpus.splitlines() if gpus else [],
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _output(*command: str) -> str | None:
    """Output of a command, stripped; None where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return None
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _seconds(benchmark: Path) -> float:
    """Wall seconds in a benchmark file, summed over its repeats."""
    frame = pd.read_csv(benchmark, sep="\t")
    if "s" not in frame:
        raise UserError(f"{benchmark}: no column 's'; not a benchmark file of Snakemake")
    return float(frame["s"].sum())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _pins(file: Path) -> list[str]:
    """Exact pins of a conda environment file."""
    dependencies = yaml.safe_load(file.read_text(encoding="utf-8"))["dependencies"]
    return [pin for entry in dependencies if isinstance(entry, dict) for pin in entry["pip"] if "==" in pin]
