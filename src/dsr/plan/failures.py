"""What failed in a run of Snakemake: written while it goes, from what it logs, and read at any time."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsr.base.files import read_json, write_json


class Failures(logging.Handler):
    """Keeps a file with the jobs that failed in this run and have not succeeded since; added to Snakemake's logger."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._wildcards: dict[int, str] = {}
        self._failed: dict[int, dict[str, Any]] = {}
        write_json(path, [])

    def emit(self, record: logging.LogRecord) -> None:
        """Take notice of an event of Snakemake's (`snakemake_interface_logger_plugins.common.LogEvent`)."""
        try:
            self._take(vars(record))
        except Exception:
            # As handlers do: what cannot be written must not stop the run.
            self.handleError(record)

    def _take(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "job_info":
                self._wildcards[event["jobid"]] = " ".join((event["wildcards"] or {}).values())
                return
            case "job_error":
                self._add(event, event["log"])
            case "group_error":
                for job in event["job_error_info"]:
                    self._add(job, [*job["log"], *event["aux_logs"]])
            case "job_finished" if event["job_id"] in self._failed:
                del self._failed[event["job_id"]]
            case _:
                return
        write_json(self._path, [*self._failed.values()])

    def _add(self, job: dict[str, Any], logs: Sequence[str]) -> None:
        number = job["jobid"]
        self._failed[number] = {
            "job": f"{job['rule_name']} {self._wildcards.get(number, '')}".strip(),
            "tries": self._failed.get(number, {}).get("tries", 0) + 1,
            "slurm": job["aux"].get("external_jobid"),
            "logs": [*logs],
            "message": job["rule_msg"],
        }


def failed(path: Path, folder: Path) -> str:
    """Say of each job in the file of :class:`Failures` what it is, how often it was tried, and its last words.

    Args:
        path: the file; none there is no failure.
        folder: where Snakemake runs, from which paths of logs start.
    """
    jobs: list[dict[str, Any]] = read_json(path) if path.exists() else []
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
