"""The same rows scored again: with other sampling or training seeds, and against other reference images."""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from dsr.config.load import Config
from dsr.config.specs import spec_hash
from dsr.report.entries import VALIDATION, Entry
from dsr.report.table import KEY, MEASURED

SPREAD = "Mean and sample standard deviation of FID over"
SETTING, SEEDS = ["Epochs", "Guidance"], ["Seeds", "FID", "Published", "Difference"]
"""Columns that several of the tables have."""
STAR = "A star marks a difference from the published value that exceeds it."


class Supplement(NamedTuple):
    """A small table under the main one."""

    title: str
    note: str
    lines: pd.DataFrame
    """Its cells as text."""


def read_fids(entries: Iterable[Entry]) -> pd.DataFrame:
    """Read the FID of every entry (columns KEY, reference, seed, fid); files that do not exist are left out."""
    lines = [
        [one.row, one.epoch, one.guidance, one.reference, one.seed, one.scores["fid"]] for one in entries if one.scores
    ]
    frame: pd.DataFrame = pd.DataFrame(lines, columns=[*KEY, "reference", "seed", "fid"])
    return frame


def supplements(config: Config, frame: pd.DataFrame, fids: pd.DataFrame) -> list[Supplement]:
    """Return the tables of sampling seeds, training seeds and references, as far as there is more than one of each.

    Args:
        config: the configuration.
        frame: the table.
        fids: what :func:`read_fids` read.
    """
    found = [sampling_seeds(frame, fids), training_seeds(config, frame), references(fids)]
    return [supplement for supplement in found if len(supplement.lines)]


def sampling_seeds(frame: pd.DataFrame, fids: pd.DataFrame) -> Supplement:
    """Return mean and sample standard deviation of the FID over two or more sampling seeds."""
    published = frame.set_index(KEY)["published_fid"]
    lines = [
        [*map(str, key), *_compared(group["fid"], published.get(key[:3]) if key[3] == VALIDATION else None)]
        for key, group in fids.groupby([*KEY, "reference"], sort=False)
        if len(group) > 1
    ]
    note = f"{SPREAD} sampling seeds of one training run (training seeds move FID more). {STAR}"
    return Supplement("Sampling seeds", note, pd.DataFrame(lines, columns=["Row", *SETTING, "Reference", *SEEDS]))


def training_seeds(config: Config, frame: pd.DataFrame) -> Supplement:
    """Return mean and sample standard deviation of the FID over rows that differ in the recipe's seed only."""
    measured = frame[frame["status"] == MEASURED]
    groups = measured["row"].map(lambda row: seed_group(config, row))
    lines = [
        [", ".join(group["row"]), *map(str, key[1:]), *_compared(group["measured_fid"], group["published_fid"].max())]
        for key, group in measured.groupby([groups, *KEY[1:]], sort=False)
        if len(group) > 1
    ]
    note = f"{SPREAD} rows that differ in the recipe's seed only. {STAR}"
    return Supplement("Training seeds", note, pd.DataFrame(lines, columns=["Rows", *SETTING, *SEEDS]))


def seed_group(config: Config, row: str) -> str:
    """Hash of everything that determines the weights of a row, but for its name and the training seed."""
    if config.rows[row].recipe is None:
        return row
    spec = config.train(row)
    return spec_hash(spec.model_copy(update={"row": "", "recipe": spec.recipe.model_copy(update={"seed": 0})}))


def references(fids: pd.DataFrame) -> Supplement:
    """Return the FID of the same images against every reference, where there are two or more."""
    wide = fids.pivot_table("fid", [*KEY, "seed"], "reference", sort=False)[fids["reference"].unique()]
    text = wide[wide.count(axis=1) > 1].map("{:.2f}".format).replace("nan", "").add_prefix("FID, ").reset_index()
    note = "FID of the same images against each reference; published values are compared with the first one only."
    return Supplement(
        "References", note, text.astype(str).set_axis(["Row", *SETTING, "Seed", *text.columns[4:]], axis=1)
    )


def with_variants(config: Config, frame: pd.DataFrame, fids: pd.DataFrame) -> pd.DataFrame:
    """Return the table with more columns: FID over seeds (count, mean, deviation), and against further references."""
    first = fids[fids["reference"] == VALIDATION]
    spread = first.groupby(KEY)["fid"].agg(seeds="count", fid_mean="mean", fid_deviation="std")
    spread = spread[spread["seeds"] > 1]
    wider = frame if spread.empty else frame.join(spread, on=KEY)
    for name in fids["reference"].unique():
        if name != VALIDATION:
            other = fids[(fids["reference"] == name) & (fids["seed"] == config.sampling.seeds[0])]
            wider = wider.join(other.set_index(KEY)["fid"].rename(f"fid_{name}"), on=KEY)
    return wider


def _compared(values: pd.Series, known: float | None) -> list[str]:
    """Cells of the columns SEEDS: values and the published one that they are compared with."""
    mean, deviation = values.mean(), values.std()
    measured = [str(len(values)), f"{mean:.2f} ± {deviation:.2f}"]
    if known is None or pd.isna(known):
        return [*measured, "", ""]
    mark = " *" if abs(mean - known) > deviation else ""
    return [*measured, f"{known:.2f}", f"{mean - known:+.2f}{mark}"]
