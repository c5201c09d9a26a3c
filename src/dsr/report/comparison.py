"""Whether a row is the paper's experiment, and what FID it should then have.

The workflow asks too, in an environment without pandas.
"""

import csv
import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

from dsr.analysis.track import Expected
from dsr.config.load import Config
from dsr.config.specs import differing_keys
from dsr.report.entries import UNGUIDED


def departures(config: Config, row: str) -> list[str]:
    """Say in what a row is not the experiment whose numbers the paper publishes, as 'key: the paper's -> its own'.

    Of a row that the configuration lacks only what it would share with the others is compared; of one with fetched
    weights, not the recipe.
    """
    own = config.model_dump(mode="json")
    paper = {name: part for name, part in _paper().items() if isinstance(part, Mapping) and name != "rows"}
    differences = differing_keys(paper, _like(paper, own))
    entry = own["rows"].get(row)
    if entry is None:
        return differences
    recipe = own["recipes"].get(entry["recipe"])
    entry |= {"encoder": own["encoders"][entry["encoder"]], "denoiser": own["denoisers"][entry["denoiser"]]}
    entry |= {"recipe": {**recipe, "ema": recipe["ema"][0]} if recipe else None}
    name = entry["compare_with"] or row
    wanted = _paper()["rows"].get(name)
    if wanted is None:
        return [*differences, f"rows: {name} is none of the paper's"]
    wanted = {key: value for key, value in wanted.items() if entry[key] is not None}
    return differences + differing_keys(wanted, _like(wanted, entry), f"rows.{row}.")


def expected(config: Config, row: str, epoch: int) -> Expected:
    """Return what is published of a row at an epoch, without guidance, if the row is the paper's experiment."""
    if differences := departures(config, row):
        more = f"; and {len(differences) - 2} more" if len(differences) > 2 else ""
        return Expected(incomparable="; ".join(differences[:2]) + more)
    known = config.rows.get(row)
    name = (known.compare_with if known else None) or row
    with (resources.files("dsr.report") / "published.csv").open(encoding="utf-8") as stream:
        lines = [*csv.DictReader(stream)]
    found = {
        line["fid"] for line in lines if (line["row"], line["epochs"], line["guidance"]) == (name, str(epoch), UNGUIDED)
    }
    published = tuple(sorted(map(float, found)))
    return Expected(published=published, incomparable="" if published else f"no FID is published at epoch {epoch}")


@functools.cache
def _paper() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((resources.files("dsr.report") / "paper.yaml").read_text(encoding="utf-8"))
    return content


def _like(pattern: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values whose keys the pattern has, at every depth."""
    return {
        key: _like(part, values[key]) if isinstance(part, Mapping) else values.get(key) for key, part in pattern.items()
    }
