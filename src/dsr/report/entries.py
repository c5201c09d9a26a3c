"""Entries: what tables and figures show, listed once by the workflow's rules and handed to commands as JSON."""

import itertools
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import RootModel

from dsr.base.errors import UserError
from dsr.base.files import read_json, read_record
from dsr.config.base import Section
from dsr.config.encoders import Ttr
from dsr.config.load import Config
from dsr.config.sampling import CHOSEN, Guidance
from dsr.config.specs import require

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
    """One set of images of a row, scored against one reference. Without a row: an encoder, and its reconstructions."""

    row: str = ""
    """Id of the row; empty for an encoder."""
    epoch: int = 0
    """Epoch after which the weights were taken."""
    guidance: str = UNGUIDED
    """Name of the guidance: one of `sampling.guidance`, or `chosen`."""
    seed: int = 0
    reference: str = VALIDATION
    """Name of the images that it is compared with."""
    decay: float | None = None
    """Decay of the moving average of the weights, where it is not the one that tables report."""
    set_id: str = ""
    """Name of the set, which is part of the names of its files."""
    encoder: str = ""
    ttr: Ttr = "none"
    metrics: Path | None = None
    samples: Path | None = None
    maps: Path | None = None
    weights: Path | None = None
    """The row's weights at this epoch."""
    record: Path | None = None
    """The trainer's record of the run that they are from, or will be."""
    chosen: Path | None = None
    """The guidance that the sweep chose, which whatever is made with it waits for."""
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

    @property
    def drawn(self) -> dict[str, Any]:
        """What the metrics file records about how the samples were drawn; empty if there is none."""
        return self.scores.get("spec", {}).get("samples") or {}

    @property
    def guided(self) -> Guidance | None:
        """The guidance that the metrics file records."""
        recorded = self.scores.get("guidance")
        return None if recorded is None else Guidance.model_validate_json(json.dumps(recorded))

    def asked(self, config: Config) -> dict[Path, Section]:
        """What its files should record: the configuration's specification of each. A row that it lacks has none."""
        found: dict[Path | None, Section] = {}
        if self.row in config.rows:
            weights = config.weights(self.row, self.epoch, self.decay)
            guidance = None if self.guidance == CHOSEN else self.guidance
            samples = config.sample(self.row, guidance, self.seed, weights=weights)
            found[self.metrics] = config.evaluate(samples)
            found[self.samples and self.samples.with_suffix(".json")] = samples
            found[self.maps] = config.denoiser_maps(self.row, self.epoch)
            found[self.weights] = weights
        elif self.encoder in config.encoders:
            reconstructions = config.reconstruct(self.encoder, self.ttr)
            found[self.maps] = config.encoder_maps(self.encoder, self.ttr)
            found[self.metrics] = config.evaluate(reconstructions)
            found[self.samples and self.samples.with_suffix(".json")] = reconstructions
        return {path: spec for path, spec in found.items() if path}


class Entries(RootModel[tuple[Entry, ...]]):
    """Entries in the order in which they are shown."""

    def require(self, config: Config) -> None:
        """Compare what the files that exist record with what the configuration asks for.

        Raises:
            UserError: if they differ, naming the file and the keys.
        """
        for path, spec in itertools.chain.from_iterable(one.asked(config).items() for one in self.root):
            if path.exists():
                require(path, read_record(path).get("spec", {}), spec)


def entries_json(entries: Iterable[Entry], *fields: str) -> str:
    """Return these fields of the entries as a command receives them; fields at their defaults are left out."""
    return json.dumps([one.model_dump(mode="json", include={*fields}, exclude_defaults=True) for one in entries])
