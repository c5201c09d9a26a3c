"""Where every row stands, from the files that its jobs write while they run, and from SLURM's queue if there is one;
and what failed, from what Snakemake logs."""

import contextlib
import logging
import re
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dsr.analysis.track import Expected
from dsr.base.errors import explain
from dsr.base.files import read_json, read_json_lines, write_json
from dsr.base.programs import output_of
from dsr.base.text import duration, pipe_table
from dsr.config.base import Positive, Section
from dsr.config.specs import json_hash

log = logging.getLogger(__name__)

RECENT = 10
"""Lines of the trainer's record that the speed is averaged over."""


class Score(Section):
    """A set of images of a row that is scored, and what is published of it."""

    path: str
    """Metrics file."""
    epoch: Positive
    spec: str
    """Hash of the specification that the file should record."""
    expected: Expected | None
    """Null: it is drawn with guidance."""


class RowFiles(Section):
    """Where a row's files are or will be."""

    run: str | None
    """Folder of its training state and of the trainer's record; null: the row's weights are fetched."""
    images_per_epoch: Positive | None
    """Images of all steps of an epoch."""
    weights: dict[int, str]
    """Epoch that the row is scored at -> file of its weights; the last ends training."""
    scores: tuple[Score, ...]


class StatusSpec(Section):
    """What the workflow writes when it starts, and the status reads."""

    title: str
    folder: str
    """Where Snakemake runs; SLURM's jobs of other folders are not these."""
    host: str
    pid: Positive
    """Process id of Snakemake on that host."""
    log: str
    """Snakemake's log."""
    failures: str
    """File of the jobs that failed (:class:`Failures`)."""
    rows: dict[str, RowFiles]


class QueuedJob(NamedTuple):
    """A job in SLURM's queue, why it is pending there, and where it was submitted."""

    state: str
    reason: str
    folder: str
    comment: str
    """`rule_{rule}_wildcards_{row}_...`, as Snakemake's SLURM plugin writes it."""

    def belongs_to(self, row: str) -> bool:
        """Whether it works for a row."""
        return f"{self.comment}_".partition("_wildcards_")[2].startswith(f"{row}_")


def table(spec: StatusSpec, queue: Sequence[QueuedJob] | None, now: float) -> str:
    """Return the state of all rows as a table; files that do not exist yet are no error.

    ``queue`` is None where there is no SLURM; ``now`` is in seconds since 1970.
    """
    here = [job for job in queue or () if job.folder == spec.folder]
    header = ["row", "epoch", "images/s", "to go", "loss", "reported", "checkpoint", "restarts", "scored", "jobs"]
    lines = []
    for row, files in spec.rows.items():
        scored = f"{sum(Path(score.path).exists() for score in files.scores)}/{len(files.scores)}"
        own = [job for job in here if job.belongs_to(row)]
        lines.append([row, *_progress(files, now), scored, "-" if queue is None else _count(own)])
    text = f"{spec.title}\n\n" + pipe_table(header, lines, header[1:9]) + "\n"
    if tracks := [line for row, files in spec.rows.items() if (line := _track(row, files.scores))]:
        text += "\nFID beside what is published (docs/evaluation.md#on-track):\n" + "".join(tracks)
    if others := [job for job in here if not any(map(job.belongs_to, spec.rows))]:
        rules = Counter(re.sub(r"^rule_|_wildcards_.*$", "", job.comment) for job in others)
        text += f"\nOther jobs: {_count(others)} ({', '.join(f'{count} {rule}' for rule, count in rules.items())}).\n"
    if lost := failed(Path(spec.failures), Path(spec.folder)):
        text += f"\n{lost}\n"
    return f"{text}\n{_snakemake(spec)}\n"


def _track(row: str, scores: Sequence[Score]) -> str:
    """Say whether a row's newest FID is what the paper's experiment gives; '' before there is one."""
    scored = [score for score in scores if score.expected and Path(score.path).exists()]
    last = max(scored, key=lambda score: score.epoch, default=None)
    if last is None or last.expected is None:
        return ""
    found = read_json(Path(last.path))
    if json_hash(found.get("spec", {})) != last.spec:
        return f"- {row}, epoch {last.epoch}: scored with other settings than the configuration's\n"
    text = f"- {row}, epoch {last.epoch}: {found['fid']:.2f}, {last.expected.verdict(found['fid'])}"
    if last.expected.published:
        text += " ({:.2f} to {:.2f} expected)".format(*last.expected.band)
    return f"{text}\n"


def _snakemake(spec: StatusSpec) -> str:
    """Say whether Snakemake runs."""
    command = Path(f"/proc/{spec.pid}/cmdline")
    if spec.host != socket.gethostname():
        state = f"was started on {spec.host} (process {spec.pid}); whether it runs can be seen there"
    elif command.exists() and b"snakemake" in command.read_bytes():
        state = f"is running (process {spec.pid})"
    else:
        state = "is not running"
    return f"Snakemake {state}. Its log: {spec.log}"


def slurm_queue() -> list[QueuedJob] | None:
    """Own jobs in SLURM's queue; None where there is none, or it does not answer."""
    lines = output_of("squeue", "--me", "--noheader", "--format", "%T|%r|%Z|%k")
    if lines is None:
        return None
    found = (line.strip().split("|", 3) for line in lines.splitlines())
    return [QueuedJob(*parts) for parts in found if len(parts) == 4 and parts[3].startswith("rule_")]


def _progress(files: RowFiles, now: float) -> list[str]:
    """From the epoch to the restarts."""
    last, done = max(files.weights), Path(files.weights[max(files.weights)]).exists()
    record = Path(files.run or "", "metrics.jsonl")
    if not (lines := read_json_lines(record) if files.run and record.exists() else []):
        return ["done" if done else "not started" if files.run else "fetched weights", *["-"] * 6]
    newest, speed = lines[-1], _speed(lines)
    hours = (last - newest["epoch"]) * (files.images_per_epoch or 0) / speed / 3600
    begun = min(len(files.weights), 1 + sum(Path(path).exists() for path in files.weights.values()))
    return [
        f"{newest['epoch']:.1f}/{last}",
        f"{speed:.0f}" if speed >= 100 else f"{speed:.1f}",
        "done" if done else duration(max(hours, 0.0)),
        f"{newest['loss']:.4f}",
        f"{duration(max(now - newest['time'], 0.0) / 3600)} ago",
        _age_of_state(record.parent, now),
        # A milestone is a job of its own, so its first start is no restart.
        str(max(0, newest["restart"] + 1 - begun)),
    ]


def _speed(lines: Sequence[dict[str, Any]]) -> float:
    """Images per second over the last lines since the last start: the steps' mean time counts."""
    recent = [line for line in lines[-RECENT:] if line["restart"] == lines[-1]["restart"]]
    steps = sum(line["steps"] for line in recent)
    return float(steps / sum(line["steps"] / line["images_per_second"] for line in recent))


def _age_of_state(run: Path, now: float) -> str:
    """How long ago the newest file of a training state was written; one may go while this looks."""
    ages = []
    for path in run.glob("state-*.pt"):
        with contextlib.suppress(FileNotFoundError):
            ages.append(now - path.stat().st_mtime)
    return f"{duration(max(min(ages), 0.0) / 3600)} ago" if ages else "-"


def _count(jobs: Sequence[QueuedJob]) -> str:
    """Jobs by state, and why they wait: '1 running, 2 pending (Priority)'."""
    parts = []
    for state, count in Counter(job.state.lower() for job in jobs).items():
        reasons = sorted({job.reason for job in jobs if job.state.lower() == state == "pending"} - {"None", ""})
        parts.append(f"{count} {state}" + (f" ({', '.join(reasons)})" if reasons else ""))
    return ", ".join(parts) or "none"


class Failures(logging.Handler):
    """Keeps a file of jobs that failed, now or before, and have not succeeded since; for Snakemake's logger.

    ``names`` are the rule and the wildcards of every job of this run, by its number.
    """

    def __init__(self, path: Path, names: Mapping[int, str]) -> None:
        super().__init__()
        self._path, self._names = path, names
        self._failed: dict[str, dict[str, Any]] = {job["job"]: job for job in _read(path)}

    def emit(self, record: logging.LogRecord) -> None:
        """Take notice of an event of Snakemake's (`snakemake_interface_logger_plugins.common.LogEvent`)."""
        try:
            self._take(vars(record))
        except OSError as error:
            log.warning("%s (list of failed jobs)", explain(error))
        except Exception:
            # As every handler does: Snakemake, whose events may change, must not stop because of a list.
            self.handleError(record)

    def _take(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "job_error":
                self._add(event, event["log"])
            case "group_error":
                for job in event["job_error_info"]:
                    self._add(job, [*job["log"], *event["aux_logs"]])
            case "job_finished" if (name := self._names.get(event["job_id"])) in self._failed:
                del self._failed[name]
            case _:
                return
        write_json(self._path, [*self._failed.values()])

    def _add(self, job: dict[str, Any], logs: Sequence[str]) -> None:
        name = self._names[job["jobid"]]
        self._failed[name] = {
            "job": name,
            "tries": self._failed.get(name, {}).get("tries", 0) + 1,
            "slurm": job["aux"].get("external_jobid"),
            "logs": [*logs],
            "message": job["rule_msg"],
        }


def _read(path: Path) -> list[dict[str, Any]]:
    return read_json(path) if path.exists() else []


def failed(path: Path, folder: Path) -> str:
    """Say of each job in the file of :class:`Failures` what it is, how often it was tried, and its last words.

    Paths of logs start from ``folder``, where Snakemake runs.
    """
    jobs = _read(path)
    lines = [f"Failed: {len(jobs)} job{'s' if len(jobs) > 1 else ''}."] if jobs else []
    for job in jobs:
        slurm = f", SLURM job {job['slurm']}" if job["slurm"] else ""
        # The first log that says anything: the rule's own, or SLURM's.
        words, log = next(
            ((words, log) for log in job["logs"] if (words := _last_words(folder / log))),
            (job["message"] or "no log", ", ".join(job["logs"])),
        )
        tries = f"{job['tries']} time{'s' if job['tries'] > 1 else ''}"
        lines += [f"- {job['job']} (tried {tries}{slurm})", f"  {words}", f"  {log}"]
    return "\n".join(lines)


def _last_words(log: Path) -> str:
    """Return the last error in a log or else its last line; '' of an empty one. Launchers write more after an error."""
    if not log.is_file():
        return ""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if " ERROR " in line), lines[-1] if lines else "")
