"""Entries: what tables and figures show, listed once by the workflow's rules and handed to commands as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import RootModel

from dsr.base.errors import UserError
from dsr.base.files import read_json
from dsr.config.base import Section
from dsr.config.encoders import Ttr

UNGUIDED = "unguided"
VALIDATION = "validation"
"""The reference that published values are compared with."""


class Quantity(NamedTuple):
    """What a table has a column of, and with how many decimals."""

    title: str
    measured: int
    published: int


METRICS = {
    "fid": Quantity("FID", 2, 2),
    "inception_score": Quantity("IS", 2, 2),
    "precision": Quantity("Precision", 3, 3),
    "recall": Quantity("Recall", 3, 3),
}
COUNTED = {"params_millions": Quantity("Parameters (M)", 2, 0), "gflops": Quantity("GFLOPs", 3, 1)}
"""Quantities of the model itself; they are published rounded, and compared so."""
QUANTITIES = {**METRICS, **COUNTED}


class Entry(Section):
    """One set of images of a row, scored against one reference. In figures of encoders: an encoder."""

    row: str = ""
    """Id of the row; empty for an encoder."""
    epoch: int = 0
    """Epoch after which the weights were taken."""
    guidance: str = UNGUIDED
    """Name of the guidance: one of `sampling.guidance`, or `chosen`."""
    seed: int = 0
    """Sampling seed."""
    reference: str = VALIDATION
    """Name of the images that it is compared with."""
    decay: float | None = None
    """Decay of the moving average of the weights, where it is not the one that tables report."""
    set_id: str = ""
    """Name of the set, which is part of the names of its files."""
    encoder: str = ""
    """Id of the encoder."""
    ttr: Ttr = "none"
    """Test-time registers of the encoder."""
    metrics: Path | None = None
    """Scores."""
    samples: Path | None = None
    """The images."""
    maps: Path | None = None
    """Token maps."""
    chosen: Path | None = None
    """The guidance that the sweep chose."""
    run: str = ""
    """Command that makes the scores."""

    @cached_property
    def scores(self) -> dict[str, Any]:
        """What its metrics file holds; empty if there is none yet.

        Raises:
            UserError: if it lacks one of METRICS.
        """
        found: dict[str, Any] = read_json(self.metrics) if self.metrics and self.metrics.exists() else {}
        missing = [name for name in METRICS if name not in found]
        if found and missing:
            raise UserError(f"{self.metrics}: no {', '.join(missing)}; evaluate these samples again")
        return found


class Entries(RootModel[tuple[Entry, ...]]):
    """Entries in the order in which they are shown."""


def entries_json(entries: Iterable[Entry], *fields: str) -> str:
    """Return these fields of the entries as a command receives them; fields at their defaults are left out."""
    return json.dumps([one.model_dump(mode="json", include={*fields}, exclude_defaults=True) for one in entries])
