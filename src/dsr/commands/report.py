"""Write a table or a model card, draw a figure, or record where the results come from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from dsr.analysis.cost import transformer_parameters
from dsr.artifacts import manifest
from dsr.base.command import command
from dsr.base.files import atomic
from dsr.config.load import Config
from dsr.plan import throughput
from dsr.plan.costs import encode_job, works
from dsr.report import backbones
from dsr.report.entries import Entries
from dsr.report.figures.common import FigureInput, style
from dsr.report.figures.fid import averages, fid
from dsr.report.figures.maps import attention, components, norms, outliers, times
from dsr.report.figures.samples import reconstruction, samples
from dsr.report.figures.training import training
from dsr.report.provenance import write_provenance
from dsr.report.reconstruction import write_reconstruction
from dsr.report.render import write_card, write_table

Kind = Literal[
    "norms", "times", "components", "attention", "outliers", "samples", "reconstruction", "fid", "averages", "training"
]

KINDS: Mapping[str, Callable[[FigureInput], Figure]] = {
    kind.__name__: kind
    for kind in (norms, times, components, attention, outliers, samples, reconstruction, fid, averages, training)
}
"""Each draws the maps of the entries, but for `samples` and `reconstruction` (their samples), `fid` and `averages`
(their metrics), and `training` (the trainer's records)."""


def draw(
    kind: Kind,
    config: Config,
    entries: Entries,
    png: Path,
    svg: Path,
    image: int | None = None,
    names: Path | None = None,
) -> None:
    """Draw one figure from maps, samples or metrics files; drawing is cheap, nothing is computed anew.

    Args:
        kind: what to draw.
        config: the configuration.
        entries: what it shows, in order.
        png: PNG file to write.
        svg: SVG file to write.
        image: validation image whose token maps it shows; without it the first one.
        names: index of prepared images, whose class folders name the classes of samples.
    """
    entries.require(config)
    with style():
        figure = KINDS[kind](FigureInput(config, entries.root, image, names))
        # Without dates and versions inside.
        for path, metadata in ((png, {"Software": None}), (svg, {"Date": None, "Creator": None})):
            with atomic(path) as temporary:
                figure.savefig(temporary, metadata=metadata)


def write_backbones(
    config: Config, entries: Entries, markdown_file: Path, csv: Path, html: Path, latex_file: Path
) -> None:
    """Write the table of encoders side by side, with what the plan says of them.

    Args:
        config: the configuration.
        entries: rows of one denoiser, and their encoders with and without test-time registers.
        markdown_file: Markdown file to write.
        csv: CSV file to write.
        html: page of its own to write.
        latex_file: LaTeX file to write.
    """
    entries.require(config)
    known, measured = manifest.load(), throughput.read()
    gpu = throughput.gpu_of(measured, config.resources.train.gres)
    trained = {
        one.name: (one.speed.images_per_second, one.gpu_hours)
        for one in works(config, known, measured, gpu)
        if one.stage == "train" and one.speed
    }
    costs = {}
    for row, entry in config.rows.items():
        job = encode_job(config, known, entry.encoder, entry.ttr)
        encoded = throughput.speed(measured, gpu, job) if row in trained else None
        check = known.artifacts[entry.encoder].check if job.gflops else None
        parameters = (
            transformer_parameters(check.width, check.depth, check.intermediate_size) / 1e6
            if isinstance(check, manifest.EncoderCheck)
            else None
        )
        costs[row] = backbones.Costs(
            parameters, job.gflops, encoded and encoded.images_per_second, *trained.get(row, (None, None))
        )
    backbones.write(config, backbones.collect(config, entries.root, costs), gpu, (markdown_file, csv, html, latex_file))


if __name__ == "__main__":
    command(
        table=write_table,
        reconstruction=write_reconstruction,
        backbones=write_backbones,
        card=write_card,
        figure=draw,
        provenance=write_provenance,
    )()
