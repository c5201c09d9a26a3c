"""How often a job started without leaving anything new behind: the limit to requeues."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr.base import files

FRUITLESS_STARTS = 5
"""Starts in a row that may end without a new file; a preemption or a failing node during start-up is no fault."""


@dataclass(frozen=True)
class Attempts:
    """Count of a job's fruitless starts, kept beside its state.

    Progress is a new name among the files of the state's folder: a later checkpoint, one more shard of images.
    """

    state: Path

    @property
    def path(self) -> Path:
        """File of the count."""
        return self.state / "starts.json"

    def begin(self, job: str) -> bool:
        """Count a start of ``job``; another job number begins from zero.

        Returns:
            Whether it may start: not if so many starts before it were fruitless. SLURM itself requeues a job whose
            node fails, as often as that happens, even if it is the job that brings the node down.
        """
        last, names = self._read(), self._names()
        count = last["fruitless"] + 1 if (last.get("job"), last.get("names")) == (job, names) else 0
        files.write_json(self.path, {"job": job, "names": names, "fruitless": count})
        return count < FRUITLESS_STARTS

    def end(self) -> None:
        """Forget the starts of a job that is done, and the state's folder if nothing else is in it."""
        self.path.unlink(missing_ok=True)
        if self.state.is_dir() and not any(self.state.iterdir()):
            self.state.rmdir()

    def may_continue(self) -> bool:
        """Whether this start, or one of the few before it, made progress."""
        last = self._read()
        return last.get("names") != self._names() or last["fruitless"] + 1 < FRUITLESS_STARTS

    def _read(self) -> dict[str, Any]:
        return dict(files.read_json(self.path)) if self.path.exists() else {}

    def _names(self) -> list[str]:
        """Names of the files in the state's folder."""
        return sorted(entry.name for entry in self.state.glob("[!.]*") if entry != self.path)
