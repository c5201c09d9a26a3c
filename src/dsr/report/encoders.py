"""Tables of the encoders: what is left of the images, whatever the denoiser; and side by side, what each costs and how
well the rows on it do."""

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dsr.analysis.cost import transformer_parameters
from dsr.analysis.maps import TokenMaps, outlier_ratio
from dsr.artifacts import manifest
from dsr.config.load import Config
from dsr.plan import throughput
from dsr.plan.costs import encode_job, works
from dsr.report.entries import Entries, Entry
from dsr.report.published import expected
from dsr.report.render import TableFiles, fill, latex_table, pipe
from dsr.sampling.misfits import misfits

RECONSTRUCTION = {
    "encoder": "Encoder",
    "ttr": "TTR",
    "rfid": "rFID",
    "published_rfid": "rFID, published",
    "psnr": "PSNR (dB)",
    "published_psnr": "PSNR, published",
    "ssim": "SSIM",
    "images": "Images",
}
"""Columns of the CSV file that people are shown, with their headings."""
FORMATS = {
    "SSIM": ".3f",
    "Images": ".0f",
    "Outliers": ".2%",
    "Encoder (M)": ",.1f",
    "GFLOPs": ",.1f",
    **dict.fromkeys(("Encoded images/s", "Trained images/s", "GPU-hours"), ",.0f"),
}
"""How numbers are written, by heading; others have two decimals."""


def write_reconstruction(config: Config, entries: Entries, files: TableFiles) -> None:
    """Write the table of reconstructions in every format.

    Args:
        config: the configuration.
        entries: encoders with and without test-time registers, with the scores of their reconstructions.
        files: the table in every format.
    """
    entries.require(config)
    with (resources.files("dsr.report") / "reconstruction.csv").open(encoding="utf-8") as stream:
        published = pd.read_csv(stream).set_index(["hub", "ttr", "images", "image_size"])
    lines, wrong = [], []
    for one in entries.root:
        found = one.scores
        key = (config.encoders[one.encoder].hub, one.ttr, found["images"], config.data.image_size)
        # What is not published, or of others, is empty.
        known = published.loc[key] if key in published.index else {}
        lines.append(
            {
                "encoder": one.encoder,
                "ttr": one.ttr,
                "rfid": found["fid"],
                "published_rfid": known.get("rfid"),
                "psnr": found["psnr"],
                "published_psnr": known.get("psnr"),
                **{name: found[name] for name in ("ssim", "images", "statistics_distance", "unexplained")},
                "reconstructions_sha256": found["samples"]["sha256"],
                "published_from": known.get("source"),
            }
        )
        wrong += [f"{one.encoder}, TTR {one.ttr}: {problem}" for problem in misfits(found, "statistics", "decoder")]
    frame = pd.DataFrame(lines)
    shown = frame[[*RECONSTRUCTION]].rename(columns=RECONSTRUCTION)
    _write(files, "Reconstruction", "reconstruction.md.j2", frame, shown, config=config, wrong=wrong)


def write_backbones(config: Config, entries: Entries, files: TableFiles, measured: Path | None = None) -> None:
    """Write the table of encoders side by side, with what the plan says of them.

    Args:
        config: the configuration.
        entries: rows of one denoiser, and their encoders with reconstructions and maps.
        files: the table in every format.
        measured: what a rehearsal measured on this cluster; used before what comes with the package.
    """
    entries.require(config)
    known, speeds = manifest.load(), throughput.known(measured)
    gpu = throughput.gpu_of(speeds, config.resources.train.gres)
    trained = {one.name: one for one in works(config, known, speeds, gpu) if one.stage == "train" and one.speed}
    encoders = {(one.encoder, one.ttr): one for one in entries.root if one.encoder}
    lines = []
    for one in entries.root:
        if not one.row:
            continue
        row, work = config.rows[one.row], trained.get(one.row)
        own, job = encoders[row.encoder, row.ttr], encode_job(config, known, row.encoder, row.ttr)
        encoded = throughput.speed(speeds, gpu, job) if work else None
        check = known.artifacts[row.encoder].check if job.gflops else None
        shape = check if isinstance(check, manifest.EncoderCheck) else None
        millions = shape and transformer_parameters(shape.width, shape.depth, shape.intermediate_size) / 1e6
        published = expected(config, one.row, one.epoch).published
        lines.append(
            {
                "Encoder": row.encoder,
                "TTR": row.ttr,
                "Row": one.row,
                "Encoder (M)": millions,
                "GFLOPs": job.gflops,
                "Encoded images/s": encoded and encoded.images_per_second,
                "Trained images/s": work and work.speed and work.speed.images_per_second,
                "GPU-hours": work and work.gpu_hours,
                "rFID": own.scores.get("fid"),
                "Outliers": _outliers(own, config.figures.outlier_multiple),
                f"FID, epoch {one.epoch}": one.scores.get("fid"),
                "FID, published": " and ".join(f"{fid:.2f}" for fid in published) or None,
            }
        )
    frame = pd.DataFrame(lines)
    _write(files, "Encoders side by side", "backbones.md.j2", frame, frame, config=config, gpu=gpu)


def _outliers(one: Entry, multiple: float) -> float | None:
    """Share of tokens after the encoder's last block that are outliers."""
    if one.maps is None or not one.maps.exists():
        return None
    return float(np.mean(outlier_ratio(TokenMaps.load(one.maps).norms[:, 0, -2], multiple)))


def _write(
    files: TableFiles, title: str, template: str, frame: pd.DataFrame, lines: pd.DataFrame, **values: Any
) -> None:
    """Write a table: its ``frame``, and for people these ``lines`` of it, without columns that are empty."""
    known = lines.dropna(axis="columns", how="all")
    shown = pd.DataFrame({name: [_cell(value, FORMATS.get(name, ".2f")) for value in known[name]] for name in known})
    text = fill(template, frame=frame, table=pipe(shown), **values)
    files.write(text, frame, latex_table(shown, title))


def _cell(value: Any, form: str) -> str:
    return value if isinstance(value, str) else "" if pd.isna(value) else format(value, form)
