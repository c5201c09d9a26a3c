"""Write a table or a model card, or record where the results come from."""

from pathlib import Path

from dsr.analysis.cost import transformer_parameters
from dsr.artifacts import manifest
from dsr.base.command import command
from dsr.config.load import Config
from dsr.plan import throughput
from dsr.plan.costs import encode_job, works
from dsr.report import backbones
from dsr.report.entries import Entries
from dsr.report.provenance import write_provenance
from dsr.report.reconstruction import write_reconstruction
from dsr.report.render import write_card, write_table


def write_backbones(
    config: Config,
    entries: Entries,
    markdown_file: Path,
    csv: Path,
    html: Path,
    latex_file: Path,
    measured: Path | None = None,
) -> None:
    """Write the table of encoders side by side, with what the plan says of them.

    Args:
        config: the configuration.
        entries: rows of one denoiser, and their encoders with and without test-time registers.
        markdown_file: Markdown file to write.
        csv: CSV file to write.
        html: page of its own to write.
        latex_file: LaTeX file to write.
        measured: what a rehearsal measured on this cluster; used before what comes with the package.
    """
    entries.require(config)
    known, speeds = manifest.load(), throughput.known(measured)
    gpu = throughput.gpu_of(speeds, config.resources.train.gres)
    trained = {
        one.name: (one.speed.images_per_second, one.gpu_hours)
        for one in works(config, known, speeds, gpu)
        if one.stage == "train" and one.speed
    }
    costs = {}
    for row, entry in config.rows.items():
        job = encode_job(config, known, entry.encoder, entry.ttr)
        encoded = throughput.speed(speeds, gpu, job) if row in trained else None
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
        provenance=write_provenance,
    )()
