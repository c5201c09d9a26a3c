"""Table 1 as Markdown and LaTeX, with the footnotes that its numbers need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from dsr.report.markup import pipe_table
from dsr.report.published import Published
from dsr.report.specs import TableSpec
from dsr.report.table import QUANTITIES
from dsr.report.variants import Variant, reference_lines, seed_lines

TITLES = {
    "fid": "FID",
    "inception_score": "IS",
    "precision": "Precision",
    "recall": "Recall",
    "params_millions": "Parameters (M)",
    "gflops": "GFLOPs",
}
_MEASURED = {"fid": ".2f", "inception_score": ".2f", "precision": ".3f", "recall": ".3f"} | {
    "params_millions": ".2f",
    "gflops": ".3f",
}
_FORMS = {
    "measured": _MEASURED,
    "published": {**_MEASURED, "params_millions": ".0f", "gflops": ".1f"},
    "difference": {name: f"+{form}" for name, form in _MEASURED.items()},
}
_TTR = {"none": "no test-time register", "single": "test-time register", "recursive": "recursive test-time register"}

Line = dict[str, str]


def markdown(
    spec: TableSpec, frame: pd.DataFrame, published: Published, fids: Mapping[Variant, float] | None = None
) -> str:
    """Return Table 1 as Markdown; where published values are not comparable they stand in a table of their own.

    ``fids`` are those of several sampling seeds or references, if there are any.
    """
    if spec.published:
        parts = [f"# {spec.name}: published and measured", _pipe(_compared(frame))]
    else:
        parts = [f"# {_title(spec)}", _disclaimer(spec), _pipe(_measured(frame))]
        parts += ["## Published (ImageNet-256, not comparable)", _pipe(_published(published.main()))]
    parts += _variants(fids or {}, published if spec.published else None)
    absent = frame[(frame["status"] == "not run") & (frame["run"] != "")]
    if not absent.empty:
        commands = [f"{one.row}, epoch {one.epoch}, {one.setting}: `{one.run}`" for one in absent.itertuples()]
        parts += ["## Not run yet", "Each of these commands runs one of them:", _bullets(commands)]
    parts += ["## How this was measured", _bullets(f"{note}." for note in footnotes(spec, frame))]
    parts += ["## Rows", _bullets(_describe(spec))]
    return "\n\n".join(parts) + "\n"


def latex(spec: TableSpec, frame: pd.DataFrame) -> str:
    """Return Table 1 as a LaTeX table (needs `booktabs`), without published values that are not comparable."""
    lines = _compared(frame) if spec.published else _measured(frame)
    values = pd.DataFrame(lines).map(_escape).rename(columns=_escape)
    columns = "".join("r" if name in TITLES.values() else "l" for name in lines[0])
    body: str = values.to_latex(index=False, column_format=columns)
    notes = " ".join(_escape(f"{note}.") for note in footnotes(spec, frame))
    return f"\\begin{{table}}\n\\caption{{{_escape(_title(spec))}. {notes}}}\n{body}\\end{{table}}\n"


def footnotes(spec: TableSpec, frame: pd.DataFrame) -> list[str]:
    """Return the sentences (without full stop) that say how the numbers were measured."""
    measured = frame[frame["status"] == "measured"]
    references = sorted({f"{one.reference} ({one.reference_images:.0f} images)" for one in measured.itertuples()})
    guided = [
        f"{name} has scale {setting.scale:g} for t in [{setting.interval[0]:g}, {setting.interval[1]:g}]"
        for name, setting in spec.settings.items()
        if setting.scale > 1
    ]
    notes = [
        f"{spec.images} images per row, classes balanced, sampling seed {spec.seed}",
        f"Euler sampler with {spec.steps} grid points, which are {spec.steps - 1} network evaluations",
        "; ".join(["Guidance: unguided has none", *guided]),
        "Sampled with the moving average of the weights; its decay stands beside every row",
        f"Arithmetic: sampling in {spec.sampling_precision}, training in "
        + ", ".join(sorted({row.training_precision for row in spec.rows})),
        f"ADM protocol: IS over splits of {spec.split} images, Precision and Recall with k = {spec.neighbours} and "
        "float16 features as published tables have them (float32 values are in the CSV file)",
        "FID depends on the reference images; here: " + ("; ".join(references) or "none measured yet"),
        "Parameters are those with a gradient as constructed (position tables and Fourier frequencies excluded); "
        "GFLOPs are one forward pass of one image, two per multiply-add; both are counted from the models",
    ]
    if spec.published:
        notes.append(
            "Published: arXiv 2605.05206, most likely measured against the 50 000 validation images; the scale and "
            "interval of its guided FIDs are not published; what the paper leaves empty stays empty"
        )
    return notes


def _variants(fids: Mapping[Variant, float], published: Published | None) -> list[str]:
    parts = []
    heading, lines = seed_lines(fids, published)
    if lines:
        note = (
            "Mean and sample standard deviation of FID over sampling seeds (of one training run: training seeds "
            "move FID more). A star marks a difference from the published value that exceeds it."
        )
        parts += ["## Sampling seeds", note, pipe_table(heading, lines, heading[4:])]
    heading, lines = reference_lines(fids)
    if lines:
        note = "The same images against each reference; published values are compared with the first one only."
        parts += ["## References", note, pipe_table(heading, lines, heading[3:])]
    return parts


def _title(spec: TableSpec) -> str:
    return spec.name if spec.published else f"{spec.name} (not the paper's experiment)"


def _disclaimer(spec: TableSpec) -> str:
    stand_ins = (
        "This is a demo on handwritten digits, with small stand-ins for the SigLIP2 encoders, their decoder and the "
        "Inception classifier. It shows that the workflow runs and says nothing about the paper's claims. "
    )
    return f"{stand_ins if spec.source == 'digits' else ''}No number here is comparable with a published one."


def _compared(frame: pd.DataFrame) -> list[Line]:
    lines: list[Line] = []
    for _, entry in frame.iterrows():
        for kind in ("published", "measured", "difference"):
            label = _label(entry) if kind == "published" else dict.fromkeys(_label(entry), "")
            lines.append({**label, "Value": kind, **_cells(entry, kind)})
    return lines


def _measured(frame: pd.DataFrame) -> list[Line]:
    return [{**_label(entry), **_cells(entry, "measured")} for _, entry in frame.iterrows()]


def _published(known: pd.DataFrame) -> list[Line]:
    names = {"row": "id", "label": "row", "epochs": "epoch"} | {name: f"published_{name}" for name in QUANTITIES}
    renamed = known.rename(columns=names)
    return [{**_label(entry), **_cells(entry, "published")} for _, entry in renamed.iterrows()]


def _label(entry: pd.Series) -> Line:
    return {"Row": entry["row"], "Epochs": str(entry["epoch"]), "Guidance": entry["setting"]}


def _cells(entry: pd.Series, kind: str) -> Line:
    values = ((name, entry[f"{kind}_{name}"]) for name in QUANTITIES)
    cells = {TITLES[name]: "" if pd.isna(value) else format(value, _FORMS[kind][name]) for name, value in values}
    details = {"EMA decay": "", "Reference": ""}
    if kind == "measured":
        details = {"EMA decay": f"{entry['ema_decay']:g}", "Reference": entry["reference"] or ""}
        if entry["status"] == "not run":
            cells["FID"] = "not run"
    return {**cells, **details}


def _pipe(lines: list[Line]) -> str:
    """Columns that hold nothing at all are left out."""
    columns = [column for column in lines[0] if any(line[column] for line in lines)]
    return pipe_table(columns, [[line[column] for column in columns] for line in lines], list(TITLES.values()))


def _describe(spec: TableSpec) -> list[str]:
    return [
        f"**{row.id}**: {row.denoiser} on latents of {row.encoder}; {_TTR[row.ttr]}; {row.registers or 'no'} diffusion "
        "registers."
        for row in spec.rows
    ]


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _escape(text: str) -> str:
    return "".join({"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#"}.get(character, character) for character in text)
