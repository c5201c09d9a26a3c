"""The table of reconstructions: what encoder, statistics and decoder leave of the images, whatever the denoiser."""

from importlib import resources

import pandas as pd

from dsr.config.load import Config
from dsr.report.entries import Entries
from dsr.report.render import TableFiles, fill, latex_table, pipe
from dsr.sampling.misfits import misfits

SHOWN = {
    "encoder": ("Encoder", None),
    "ttr": ("TTR", None),
    "rfid": ("rFID", 2),
    "published_rfid": ("rFID, published", 2),
    "psnr": ("PSNR (dB)", 2),
    "published_psnr": ("PSNR, published", 2),
    "ssim": ("SSIM", 3),
    "images": ("Images", 0),
}
"""Columns of the CSV file that people are shown, with heading and decimals."""


def write_reconstruction(config: Config, entries: Entries, files: TableFiles) -> None:
    """Write the table of reconstructions in every format.

    Args:
        config: the configuration.
        entries: encoders with and without test-time registers, with the scores of their reconstructions.
        files: the table in every format.
    """
    entries.require(config)
    frame = collect(config, entries)
    lines = shown(frame)
    wrong = [
        f"{line['encoder']}, TTR {line['ttr']}: {problem}"
        for line in frame.to_dict("records")
        for problem in misfits(line, "statistics", "decoder")
    ]
    text = fill("reconstruction.md.j2", config=config, frame=frame, table=pipe(lines), wrong=wrong)
    files.write(text, frame, latex_table(lines, "Reconstruction"))


def collect(config: Config, entries: Entries) -> pd.DataFrame:
    """Return one line per encoder and mode of test-time registers; what is not published, or of others, is empty."""
    with (resources.files("dsr.report") / "reconstruction.csv").open(encoding="utf-8") as stream:
        published = pd.read_csv(stream).set_index(["hub", "ttr", "images", "image_size"])
    lines = []
    for one in entries.root:
        found, hub = one.scores, config.encoders[one.encoder].hub
        key = (hub, one.ttr, found["images"], config.data.image_size)
        known = published.loc[key] if key in published.index else {}
        lines.append(
            {
                "encoder": one.encoder,
                "ttr": one.ttr,
                "rfid": found["fid"],
                "published_rfid": known.get("rfid"),
                "psnr": found["psnr"],
                "published_psnr": known.get("psnr"),
                "ssim": found["ssim"],
                "images": found["images"],
                **{name: found[name] for name in ("statistics_distance", "unexplained")},
                "reconstructions_sha256": found["samples"]["sha256"],
                "published_from": known.get("source"),
            }
        )
    frame: pd.DataFrame = pd.DataFrame(lines)
    return frame


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the lines as people read them, without columns that are empty."""
    columns = {}
    for name, (heading, decimals) in SHOWN.items():
        if frame[name].notna().any():
            texts = (("" if pd.isna(v) else f"{v:.{decimals}f}" if decimals is not None else v) for v in frame[name])
            columns[heading] = [*texts]
    lines: pd.DataFrame = pd.DataFrame(columns)
    return lines
