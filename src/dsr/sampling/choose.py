"""The choice of a guidance setting: the lowest FID of those that a sweep tried."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dsr.base.errors import UserError
from dsr.base.files import read_json
from dsr.config.sampling import Guidance, Sweep


class Attempt(NamedTuple):
    """One setting and how its images scored."""

    name: str
    guidance: Guidance
    fid: float
    inception_score: float
    images: int

    def setting(self) -> dict[str, Any]:
        """Scale and interval, as a file says them."""
        return self.guidance.model_dump(mode="json")


def tried(sweep: Sweep, metrics: Mapping[str, Path]) -> list[Attempt]:
    """Return the settings of a sweep by FID, the lowest first; of equal ones the weaker guidance.

    Raises:
        UserError: if a setting has no metrics, or was scored on another number of images.
    """
    missing = [name for name in sweep.candidates if name not in metrics]
    if missing:
        raise UserError(f"no metrics of {', '.join(missing)}: every setting of the sweep is needed to choose one")
    attempts = []
    for name, guidance in sweep.candidates.items():
        found = read_json(metrics[name])
        if found["images"] != sweep.images:
            raise UserError(
                f"{metrics[name]}: {found['images']} images, expected sweep.images ({sweep.images}); FIDs of different"
                " numbers of images must not be compared: sample and evaluate it again"
            )
        attempts.append(Attempt(name, guidance, found["fid"], found["inception_score"], found["images"]))
    return sorted(attempts, key=lambda attempt: (attempt.fid, attempt.guidance.scale))
