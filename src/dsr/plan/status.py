"""Where every row stands, from the files that its jobs write while they run, and from SLURM's queue if there is one."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr.base.durations import duration
from dsr.base.files import read_json_lines
from dsr.base.markup import pipe_table
from dsr.config.base import Positive, Section

RECENT = 10
"""Lines of the trainer's record that the speed is averaged over."""


class Milestone(Section):
    """An epoch that a row is scored at."""

    epoch: Positive
    weights: str
    """File of its weights."""


class RowFiles(Section):
    """Where a row's files are or will be."""

    record: str | None
    """The trainer's record, a line every so many steps; null: the row's weights are fetched."""
    states: str | None
    """Pattern of the files of its training state."""
    milestones: tuple[Milestone, ...]
    """In order; the last ends training."""
    images_per_epoch: Positive | None
    """Images of all steps of an epoch."""
    batch: Positive | None
    """Images of a step."""
    scores: tuple[str, ...]
    """Metrics files."""


class StatusSpec(Section):
    """What the workflow writes when it starts, and the status reads."""

    title: str
    folder: str
    """Where Snakemake runs; SLURM's jobs of other folders are not these."""
    rows: dict[str, RowFiles]


@dataclass(frozen=True)
class QueuedJob:
    """A job in SLURM's queue."""

    state: str
    """'RUNNING', 'PENDING', ..."""
    reason: str
    """Why it is pending."""
    folder: str
    """Where it was submitted."""
    comment: str
    """`rule_{rule}_wildcards_{row}_...`, as Snakemake's SLURM plugin writes it."""


def table(spec: StatusSpec, queue: Sequence[QueuedJob] | None, now: float) -> str:
    """Return the state of all rows as a table.

    Args:
        spec: where the files are; those that do not exist yet are no error.
        queue: SLURM's jobs; None where there is no SLURM.
        now: seconds since 1970.
    """
    if queue is not None:
        queue = [job for job in queue if job.folder == spec.folder]
    header = ["row", "epoch", "images/s", "to go", "loss", "reported", "checkpoint", "restarts", "scored", "jobs"]
    lines = [_line(name, files, queue, now) for name, files in spec.rows.items()]
    text = f"{spec.title}\n\n" + pipe_table(header, lines, header[1:9]) + "\n"
    others = [job for job in queue or () if not any(_belongs(job, row) for row in spec.rows)]
    if others:
        rules = Counter(_rule(job) for job in others)
        names = ", ".join(f"{count} {rule}" for rule, count in rules.items())
        text += f"\nOther jobs: {_count(others)} ({names}).\n"
    return text


def slurm_queue(timeout: float = 20.0) -> list[QueuedJob] | None:
    """Own jobs in SLURM's queue; None where there is none, or it does not answer."""
    command = ["squeue", "--me", "--noheader", "--format", "%T|%r|%Z|%k"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = (line.strip().split("|", 3) for line in done.stdout.splitlines())
    return [QueuedJob(*parts) for parts in found if len(parts) == 4 and parts[3].startswith("rule_")]


def _line(name: str, files: RowFiles, queue: Sequence[QueuedJob] | None, now: float) -> list[str]:
    scored = f"{sum(Path(path).exists() for path in files.scores)}/{len(files.scores)}"
    own = [job for job in queue or () if _belongs(job, name)]
    jobs = "-" if queue is None else _count(own)
    last = files.milestones[-1]
    done = Path(last.weights).exists()
    lines = _record(files.record)
    if not lines:
        state = "done" if done else "fetched weights" if files.record is None else "not started"
        return [name, state, "-", "-", "-", "-", "-", "-", scored, jobs]
    newest = lines[-1]
    assert files.images_per_epoch is not None
    assert files.batch is not None
    speed = _speed(lines, files.batch)
    hours = (last.epoch - newest["epoch"]) * files.images_per_epoch / speed / 3600
    begun = min(len(files.milestones), 1 + sum(Path(entry.weights).exists() for entry in files.milestones))
    return [
        name,
        f"{newest['epoch']:.1f}/{last.epoch}",
        f"{speed:.0f}" if speed >= 100 else f"{speed:.1f}",
        "done" if done else duration(max(hours, 0.0)),
        f"{newest['loss']:.4f}",
        _ago(newest["time"], now),
        _ago(_newest_state(files.states), now),
        # A milestone is a job of its own, so its first start is no restart.
        str(max(0, newest["restart"] + 1 - begun)),
        scored,
        jobs,
    ]


def _record(path: str | None) -> list[dict[str, Any]]:
    """Lines of the trainer's record, oldest first; nothing if it has not begun."""
    return read_json_lines(Path(path)) if path is not None and Path(path).exists() else []


def _speed(lines: Sequence[dict[str, Any]], batch: int) -> float:
    """Images per second over the last lines since the last start."""
    recent = [line for line in lines[-RECENT:] if line["restart"] == lines[-1]["restart"]]
    seconds = sum(line["steps"] * batch / line["images_per_second"] for line in recent)
    return float(sum(line["steps"] for line in recent) * batch / seconds)


def _newest_state(pattern: str | None) -> float | None:
    """When the newest file of a training state was written; one may go while this looks."""
    if pattern is None:
        return None
    times = []
    for path in Path(pattern).parent.glob(Path(pattern).name):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(times, default=None)


def _ago(time: float | None, now: float) -> str:
    return "-" if time is None else f"{duration(max(now - time, 0.0) / 3600)} ago"


def _belongs(job: QueuedJob, row: str) -> bool:
    return f"{job.comment}_".partition("_wildcards_")[2].startswith(f"{row}_")


def _rule(job: QueuedJob) -> str:
    return re.sub(r"^rule_|_wildcards_.*$", "", job.comment)


def _count(jobs: Sequence[QueuedJob]) -> str:
    """Jobs by state, and why they wait: '1 running, 2 pending (Priority)'."""
    parts = []
    for state, count in Counter(job.state.lower() for job in jobs).items():
        reasons = sorted({job.reason for job in jobs if job.state.lower() == state == "pending"} - {"None", ""})
        parts.append(f"{count} {state}" + (f" ({', '.join(reasons)})" if reasons else ""))
    return ", ".join(parts) or "none"
