"""The same rows scored again: with other sampling or training seeds, and against other reference images."""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from dsr.config.load import Config
from dsr.config.specs import spec_hash
from dsr.report.entries import VALIDATION, Entry
from dsr.report.table import KEY, MEASURED

SPREAD = "Mean and sample standard deviation of FID over"
STAR = "A star marks a difference from the published value that exceeds it."


class Supplement(NamedTuple):
    """A small table under the main one."""

    title: str
    note: str
    heading: list[str]
    lines: list[list[str]]


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
    return [supplement for supplement in found if supplement.lines]


def sampling_seeds(frame: pd.DataFrame, fids: pd.DataFrame) -> Supplement:
    """Return mean and sample standard deviation of the FID over two or more sampling seeds."""
    published = frame.set_index(KEY)["published_fid"]
    lines = [
        [*map(str, key), *_compared(group["fid"], published.get(key[:3]) if key[3] == VALIDATION else None)]
        for key, group in fids.groupby([*KEY, "reference"], sort=False)
        if len(group) > 1
    ]
    heading = ["Row", "Epochs", "Guidance", "Reference", "Seeds", "FID", "Published", "Difference"]
    note = f"{SPREAD} sampling seeds of one training run (training seeds move FID more). {STAR}"
    return Supplement("Sampling seeds", note, heading, lines)


def training_seeds(config: Config, frame: pd.DataFrame) -> Supplement:
    """Return mean and sample standard deviation of the FID over rows that differ in the recipe's seed only."""
    measured = frame[frame["status"] == MEASURED]
    groups = {row: seed_group(config, row) for row in measured["row"]}
    lines = []
    for (_, epoch, guidance), group in measured.groupby([measured["row"].map(groups), *KEY[1:]], sort=False):
        if len(group) > 1:
            known = group["published_fid"].dropna()
            numbers = _compared(group["measured_fid"], None if known.empty else known.iloc[0])
            lines.append([", ".join(group["row"]), str(epoch), str(guidance), *numbers])
    heading = ["Rows", "Epochs", "Guidance", "Seeds", "FID", "Published", "Difference"]
    note = f"{SPREAD} rows that differ in the recipe's seed only. {STAR}"
    return Supplement("Training seeds", note, heading, lines)


def seed_group(config: Config, row: str) -> str:
    """Hash of everything that determines the weights of a row, but for its name and the training seed."""
    if config.rows[row].recipe is None:
        return row
    spec = config.train(row)
    return spec_hash(spec.model_copy(update={"row": "", "recipe": spec.recipe.model_copy(update={"seed": 0})}))


def references(fids: pd.DataFrame) -> Supplement:
    """Return the FID of the same images against every reference, where there are two or more."""
    names = list(fids["reference"].unique())
    wide = fids.pivot_table("fid", [*KEY, "seed"], "reference", sort=False).reindex(columns=names)
    wide = wide[wide.count(axis=1) > 1]
    lines = [
        [*map(str, key), *("" if pd.isna(fid) else f"{fid:.2f}" for fid in values)]
        for key, values in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    note = "FID of the same images against each reference; published values are compared with the first one only."
    heading = ["Row", "Epochs", "Guidance", "Seed", *(f"FID, {name}" for name in names)]
    return Supplement("References", note, heading, lines)


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
    """Number of values, their mean and deviation, the published value and the difference from it."""
    mean, deviation = values.mean(), values.std()
    compared = ["", ""]
    if known is not None and not pd.isna(known):
        mark = " *" if abs(mean - known) > deviation else ""
        compared = [f"{known:.2f}", f"{mean - known:+.2f}{mark}"]
    return [str(len(values)), f"{mean:.2f} ± {deviation:.2f}", *compared]
