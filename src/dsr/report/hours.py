"""Wall time and GPU-hours of every row, from Snakemake's benchmarks and the trainer's own record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dsr.base.files import read_json_lines
from dsr.config.load import Config

STAGES = ("train", "sample", "evaluate")
"""Stages of a row, as its jobs' names begin ('train:row:80')."""


def row_times(
    config: Config, wall_seconds: Mapping[str, float], records: Mapping[str, Path]
) -> dict[str, dict[str, float]]:
    """Return seconds by stage and GPU-hours of every row of which something has run.

    Sampling and evaluation are those of every seed, moving average, guidance setting (tried ones included) and
    reference. A job counts for all the GPUs that it holds, busy or not. Snakemake knows a job's last attempt only;
    the trainer's record knows all of them, without their start. Training counts as the longer of the two.

    Args:
        config: the configuration; its resources say how many GPUs the jobs of a stage hold.
        wall_seconds: seconds by job, named 'stage:row:...'.
        records: the trainer's metrics file by row; one that does not exist is left out.
    """
    times = {}
    for name, row in config.rows.items():
        seconds = {stage: _sum(wall_seconds, f"{stage}:{name}:") for stage in STAGES}
        record = records.get(name)
        if record is not None and record.exists() and row.recipe is not None:
            seconds["train"] = max(seconds["train"], _training_seconds(record, config.recipes[row.recipe].batch))
        if any(seconds.values()):
            hours = sum(seconds[stage] * gpus(config, stage) for stage in STAGES) / 3600
            times[name] = {**seconds, "gpu_hours": hours}
    return times


def gpus(config: Config, stage: str) -> int:
    """GPUs that a job of a stage holds, on all of its nodes."""
    nodes = config.execution.nodes if stage == "train" else 1
    held: int = getattr(config.resources, stage).gpus
    return held * nodes


def _sum(wall_seconds: Mapping[str, float], prefix: str) -> float:
    return sum(seconds for job, seconds in wall_seconds.items() if job.startswith(prefix))


def _training_seconds(record: Path, batch: int) -> float:
    lines = read_json_lines(record)
    return float(sum(line["steps"] * batch / line["images_per_second"] for line in lines))
