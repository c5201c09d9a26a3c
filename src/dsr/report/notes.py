"""What a reader has to know about the numbers of a table: why one FID is not another one."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from dsr.config.load import Config
from dsr.config.sampling import CHOSEN, Guidance
from dsr.report.published import CHART
from dsr.report.table import MEASURED, TableInput

MARK = "†"
"""Stands at the FID of a row some of whose images are one colour all over."""


def footnotes(given: TableInput, frame: pd.DataFrame) -> list[str]:
    """Return the sentences (without full stop) that say how the numbers were measured."""
    evaluation, drawn = given.config.evaluation, given.drawn
    training = _training([found for one in drawn if (found := one.get("weights", {}).get("train", {}))])
    notes = [
        f"{_each(one['images'] for one in drawn)} images per row, classes balanced, sampling seed "
        f"{_each(one['seed'] for one in drawn)}; with fewer images FID is higher",
        "One training run a row, unless it says otherwise; another training seed moves FID more than another sampling "
        "seed",
        f"Euler sampler with {_each(one['steps'] for one in drawn)} grid points, which are "
        f"{_each(one['steps'] - 1 for one in drawn)} network evaluations",
        *_guidance(given, frame),
        "Sampled with the moving average of the weights. Its decay stands beside every row: on one and the same "
        "training run it can move FID by as much as registers do",
        f"Arithmetic: sampling in {_each(one['precision'] for one in drawn)}"
        + (f", training in {training}" if training else ""),
        f"ADM protocol: IS over splits of {evaluation.split} images, Precision and Recall with k = "
        f"{evaluation.neighbours} and float16 features as published tables have them (float32 values are in the CSV "
        "file)",
        "FID depends on the reference images; here: " + (_references(frame) or "none measured yet"),
        "Parameters are those with a gradient as constructed (position tables and Fourier frequencies excluded); "
        "GFLOPs are one forward pass of one image, two per multiply-add; both are counted from the models"
        + (", and compared as rounded as they are published" if given.comparable else ""),
        *_constant(frame),
    ]
    if given.section and given.section.note:
        notes.append(given.section.note.strip().rstrip("."))
    if given.comparable and given.published_table == CHART:
        notes.append("Published: FIDs read off a chart of arXiv 2605.05206, uncertain by 0.05")
    elif given.comparable:
        notes.append(
            "Published: arXiv 2605.05206, most likely measured against the 50 000 validation images; the scale and "
            "interval of its guided FIDs are not published; what the paper leaves empty stays empty"
        )
    return notes + [
        f"{row} is not the paper's experiment ({'; '.join(found)})"
        for row, found in given.departures.items()
        if given.comparable and found and given.published.label(given.published_row(row))
    ]


def disclaimer(config: Config) -> str:
    """Say why measured numbers are not comparable with published ones."""
    demo = (
        "This is a demo on handwritten digits, with small models in place of the SigLIP2 encoders, their decoder and "
        "the Inception classifier. It shows that the workflow runs and says nothing about the paper's claims. "
    )
    return f"{demo if config.data.source == 'digits' else ''}No number here is comparable with a published one."


def describe(guidance: Guidance) -> str:
    """Say what a guidance is."""
    low, high = guidance.interval
    return f"scale {guidance.scale:g} for t in [{low:g}, {high:g}]"


def _guidance(given: TableInput, frame: pd.DataFrame) -> list[str]:
    columns = ["guidance", "guidance_scale", "guidance_low", "guidance_high"]
    guided = [
        f"{name} has {describe(Guidance(scale=scale, interval=(low, high)))}"
        for name, scale, low, high in frame[columns].drop_duplicates().itertuples(index=False)
        if name != CHOSEN and scale > 1
    ]
    notes = ["; ".join(["Guidance: unguided has none", *guided])]
    sweep = given.config.sampling.sweep
    if sweep and CHOSEN in set(frame["guidance"]):
        notes.append(
            f"Guidance chosen is, for each row, the one of {len(sweep.candidates)} settings (scales "
            f"{', '.join(f'{scale:g}' for scale in sweep.scales)}; t in "
            f"{', '.join(f'[{low:g}, {high:g}]' for low, high in sweep.intervals)}) with the lowest FID on "
            f"{sweep.images} images of seed {sweep.seed} against the reference of the table; other images are then "
            "drawn with it and scored. Choosing on FID is common practice. It means that a guided FID is the best "
            "of several tries, of a number that published tables rarely state, tuned to the reference and to "
            "Inception's features: compare it with guided FIDs only, and take no small difference between two of them "
            "for a better model"
        )
    return notes


def _training(trained: Iterable[Mapping[str, Any]]) -> str:
    """Name the arithmetic in which rows were trained: of each row, if it is not the same for all."""
    rows: dict[str, dict[str, None]] = {}
    for spec in trained:
        rows.setdefault(spec["recipe"]["precision"], {})[spec["row"]] = None
    if len(rows) < 2:
        return "".join(rows)
    return "; ".join(f"{precision} ({', '.join(names)})" for precision, names in sorted(rows.items()))


def _each(values: Iterable[object]) -> str:
    """Every value once, in words."""
    return " or ".join(dict.fromkeys(map(str, values)))


def _constant(frame: pd.DataFrame) -> list[str]:
    """Warn of rows some of whose images are one colour."""
    flagged = frame[pd.to_numeric(frame["constant_images"]) > 0]
    return [
        f"{MARK} {one.constant_images:.0f} of the {one.images:.0f} images of {one.row}, epoch {one.epoch}, "
        f"{one.guidance}, are one colour all over, which is what NaN becomes: look at them before using the numbers"
        for one in flagged.itertuples()
    ]


def _references(frame: pd.DataFrame) -> str:
    measured = frame[frame["status"] == MEASURED]
    return "; ".join(sorted({f"{one.reference} ({one.reference_images:.0f} images)" for one in measured.itertuples()}))
