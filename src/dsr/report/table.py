"""A table as data: rows at epochs, published, measured and the difference; and the small ones below it, of rows scored
again with other seeds and against other reference images (pandas, no torch)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from dsr.analysis.cost import denoiser_cost
from dsr.config.load import Config
from dsr.config.sampling import CHOSEN, Guidance, Table
from dsr.config.specs import content, spec_hash
from dsr.report.entries import COUNTED, METRICS, QUANTITIES, UNGUIDED, VALIDATION, Entry
from dsr.report.published import CHART, MAIN, Published, departures, expected

KEY = ["row", "epoch", "guidance"]
"""Columns that tell the lines of a table apart."""
EXTRA = ("sfid", "precision_f32", "recall_f32")
"""Measured quantities without a published counterpart."""
MEASURED, NOT_RUN = "measured", "not run"
"""Status of what has a metrics file, and of what has none but can have one."""
SETTING, SEEDS = ["Epochs", "Guidance"], ["Seeds", "FID", "Published", "Difference"]
"""Columns that several of the small tables have."""
SPREAD = "Mean and sample standard deviation of FID over"
STAR = "A star marks a difference from the published value that exceeds it."


@dataclass(frozen=True)
class TableInput:
    """What a table is made of."""

    config: Config
    entries: tuple[Entry, ...]
    """What is measured, or can be."""
    name: str = ""
    """Id of one of the configuration's `tables`; empty for Table 1, which has the rows of the entries."""
    published: Published = field(default_factory=Published)

    @property
    def section(self) -> Table | None:
        """The table's section of the configuration; None for Table 1."""
        return self.config.tables[self.name] if self.name else None

    @property
    def published_table(self) -> str:
        """Name of the published list that it reproduces."""
        if self.section is None:
            return MAIN
        return CHART if self.section.chart else self.name

    @property
    def rows(self) -> list[str]:
        """Rows in order, configured or not."""
        return list(self.section.rows if self.section else dict.fromkeys(one.row for one in self.entries))

    @property
    def guidance(self) -> dict[str, Guidance | None]:
        """What is shown, by name; None is what a sweep chooses."""
        named, sweep = self.config.sampling.guidance, self.config.sampling.sweep
        if self.section:
            return {UNGUIDED: named[UNGUIDED]}
        return {**named, **({CHOSEN: None} if sweep else {})}

    @cached_property
    def measured(self) -> dict[tuple[str, int, str], Entry]:
        """Entry of every line that has one: those of the first sampling seed and reference."""
        seed = self.config.sampling.seeds[0]
        shown = (one for one in self.entries if one.seed == seed and one.reference == VALIDATION)
        return {(one.row, one.epoch, one.guidance): one for one in shown}

    @cached_property
    def drawn(self) -> list[dict[str, Any]]:
        """How the samples of every line were drawn, as files record it; if there are none yet, as is asked for."""
        config, seed = self.config, self.config.sampling.seeds[0]
        asked = (
            config.sample(row, UNGUIDED, seed, weights=config.weights(row, config.epochs(row)[-1]))
            for row in config.rows
        )
        return [one.drawn for one in self.measured.values() if one.drawn] or [*map(content, asked)]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One line per row, epoch and guidance with an entry or a comparable published value.

        A metrics file that does not exist leaves the measured cells empty, with status NOT_RUN and the command that
        makes it, or with the reason why there is none.
        """
        lines = []
        for row in self.rows:
            for epoch in self.epochs(row):
                for guidance in self.guidance:
                    known = self.published_values(row, epoch, guidance)
                    compared = any(known[name] is not None for name in METRICS)
                    every = self.section is not None and self.section.epochs is not None
                    if every or compared or (row, epoch, guidance) in self.measured:
                        lines.append(_line(self, row, epoch, guidance, known))
        columns = [*_line(self, "", 0, UNGUIDED, dict.fromkeys(QUANTITIES))]
        frame: pd.DataFrame = pd.DataFrame(lines, columns=columns)
        return frame

    @cached_property
    def fids(self) -> pd.DataFrame:
        """FID of every entry (columns KEY, reference, seed, fid); files that do not exist are left out."""
        lines = [
            [one.row, one.epoch, one.guidance, one.reference, one.seed, one.scores["fid"]]
            for one in self.entries
            if one.scores
        ]
        frame: pd.DataFrame = pd.DataFrame(lines, columns=[*KEY, "reference", "seed", "fid"])
        return frame

    def epochs(self, row: str) -> list[int]:
        """Epochs of a row; weights that were fetched have one."""
        epochs = {one.epoch for one in self.entries}
        if self.section and self.section.epochs:
            epochs = {*self.section.epochs}
        elif self.section and self.comparable:
            epochs |= self.published.epochs(self.published_table, map(self.published_row, self.rows))
        known = self.config.rows.get(row)
        return sorted(epochs & {known.fetched.epoch} if known and known.fetched else epochs)

    @cached_property
    def departures(self) -> dict[str, list[str]]:
        """In what every row is not the experiment of the published numbers."""
        return {row: departures(self.config, row) for row in self.rows}

    @property
    def comparable(self) -> bool:
        """Whether any row is the experiment of the published numbers."""
        return not all(self.departures.values())

    def published_row(self, row: str) -> str:
        """Row of the published lists whose numbers stand beside those of ``row``."""
        known = self.config.rows.get(row)
        return (known.compare_with if known else None) or row

    def published_values(self, row: str, epoch: int, guidance: str) -> dict[str, float | None]:
        """Published values by quantity, if they are comparable."""
        if self.departures[row]:
            return dict.fromkeys(QUANTITIES)
        known = self.guidance[guidance]
        # Published lists call every guidance "guided".
        kind = "guided" if known is None or known.scale > 1 else UNGUIDED
        return self.published.values(self.published_table, self.published_row(row), epoch, kind)

    def absent(self, row: str) -> str:
        """Say why a row that is not configured has no numbers and cannot be run; empty if it can."""
        if row in self.config.rows or any(one.row == row for one in self.entries):
            return ""
        return "not part of the demo" if self.config.data.source == "digits" else "not reproduced"


def _line(
    given: TableInput, row: str, epoch: int, guidance: str, published: Mapping[str, float | None]
) -> dict[str, Any]:
    config, entry = given.config, given.measured.get((row, epoch, guidance), Entry())
    found, counted = entry.scores, {}
    if row in config.rows and row in {one.row for one in given.entries}:
        cost = denoiser_cost(config.model(row))
        counted = {"params_millions": cost.trainable / 1e6, "gflops": cost.flops / 1e9}
    measured = {**found, **counted}
    numbers: dict[str, float | None] = {}
    for name in QUANTITIES:
        known, value = published[name], measured.get(name)
        numbers |= {f"published_{name}": known, f"measured_{name}": value, f"difference_{name}": None}
        if known is not None and value is not None:
            decimals = COUNTED[name].published if name in COUNTED else 12
            numbers[f"difference_{name}"] = round(round(value, decimals) - known, decimals)
    status = MEASURED if found else given.absent(row) or NOT_RUN
    compared = any(published[name] is not None for name in METRICS)
    reference, samples = found.get("reference", {}), found.get("samples", {})
    used = entry.guided or given.guidance[guidance]
    low, high = used.interval if used else (None, None)
    decay = next(iter(config.averages(row)), None) if row in config.rows else None
    return {
        "row": row,
        "epoch": epoch,
        "guidance": guidance,
        "status": status,
        "run": entry.run if status == NOT_RUN else "",
        "published_from": ("chart" if given.published_table == CHART else "tables") if compared else None,
        **numbers,
        **{f"measured_{name}": measured.get(name) for name in EXTRA},
        "ema_decay": entry.drawn.get("weights", {}).get("decay", decay),
        "guidance_scale": used.scale if used else None,
        "guidance_low": low,
        "guidance_high": high,
        "images": found.get("images"),
        # A reference is called after its file.
        "reference": (reference.get("name") or "").removeprefix("reference-") or None,
        "reference_images": reference.get("images"),
        "constant_images": samples.get("constant_images"),
        "samples_sha256": samples.get("sha256"),
    }


class Supplement(NamedTuple):
    """A small table under the main one."""

    title: str
    note: str
    lines: pd.DataFrame
    """Its cells as text."""


def supplements(given: TableInput) -> list[Supplement]:
    """Return where rows stand, and the tables of seeds and references, as far as there is more than one of each."""
    found = [track(given), sampling_seeds(given), training_seeds(given), references(given)]
    return [supplement for supplement in found if len(supplement.lines)]


def track(given: TableInput) -> Supplement:
    """Return measured FIDs beside what is published of the same epochs; empty where nothing is comparable."""
    frame, lines = given.frame, []
    for one in frame[(frame["status"] == MEASURED) & (frame["guidance"] == UNGUIDED)].itertuples():
        known, cells = expected(given.config, one.row, one.epoch), ["", ""]
        if known.published:
            cells = [" and ".join(f"{fid:.2f}" for fid in known.published), "{:.2f} to {:.2f}".format(*known.band)]
        lines.append([one.row, str(one.epoch), f"{one.measured_fid:.2f}", *cells, known.verdict(one.measured_fid)])
    note = (
        "FID without guidance, beside what the paper's tables and chart say at the same epoch (they need not agree)."
        " Expected: reading the chart, ±0.05, and twice the deviation of two runs with other training and sampling"
        " seeds, 1.3 % of FID each: that of a study at an FID near 35, in proportion."
    )
    columns = ["Row", "Epochs", "FID", "Published", "Expected", "Verdict"]
    comparable = any(known for *_, known, _, _ in lines)
    return Supplement("On track?", note, pd.DataFrame(lines if comparable else [], columns=columns))


def sampling_seeds(given: TableInput) -> Supplement:
    """Return mean and sample standard deviation of the FID over two or more sampling seeds."""
    published = given.frame.set_index(KEY)["published_fid"]
    lines = [
        [*map(str, key), *_compared(group["fid"], published.get(key[:3]) if key[3] == VALIDATION else None)]
        for key, group in given.fids.groupby([*KEY, "reference"], sort=False)
        if len(group) > 1
    ]
    note = f"{SPREAD} sampling seeds of one training run (training seeds move FID more). {STAR}"
    return Supplement("Sampling seeds", note, pd.DataFrame(lines, columns=["Row", *SETTING, "Reference", *SEEDS]))


def training_seeds(given: TableInput) -> Supplement:
    """Return mean and sample standard deviation of the FID over rows that differ in the recipe's seed only."""
    measured = given.frame[given.frame["status"] == MEASURED]
    groups = measured["row"].map(lambda row: seed_group(given.config, row))
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


def references(given: TableInput) -> Supplement:
    """Return the FID of the same images against every reference, where there are two or more."""
    order = given.fids["reference"].unique()
    wide = given.fids.pivot_table("fid", [*KEY, "seed"], "reference", sort=False)[order]
    text = wide[wide.count(axis=1) > 1].map("{:.2f}".format).replace("nan", "").add_prefix("FID, ").reset_index()
    note = "FID of the same images against each reference; published values are compared with the first one only."
    return Supplement(
        "References", note, text.astype(str).set_axis(["Row", *SETTING, "Seed", *text.columns[4:]], axis=1)
    )


def with_variants(given: TableInput) -> pd.DataFrame:
    """Return the table with more columns: FID over seeds (count, mean, deviation), and against further references."""
    frame, fids = given.frame, given.fids
    first = fids[fids["reference"] == VALIDATION]
    spread = first.groupby(KEY)["fid"].agg(seeds="count", fid_mean="mean", fid_deviation="std")
    spread = spread[spread["seeds"] > 1]
    wider = frame if spread.empty else frame.join(spread, on=KEY)
    for name in fids["reference"].unique():
        if name != VALIDATION:
            other = fids[(fids["reference"] == name) & (fids["seed"] == given.config.sampling.seeds[0])]
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
