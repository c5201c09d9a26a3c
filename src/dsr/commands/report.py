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
from dsr.report.render import TableFiles, write_card, write_table


def write_backbones(
    config: Config,
    entries: Entries,
    files: TableFiles,
    measured: Path | None = None,
) -> None:
    """Write the table of encoders side by side, with what the plan says of them.

    Args:
        config: the configuration.
        entries: rows of one denoiser, and their encoders with and without test-time registers.
        files: the table in every format.
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
        speed, hours = trained.get(row, (None, None))
        costs[row] = {
            "Encoder (M)": backbones.number(parameters, 1),
            "GFLOPs": backbones.number(job.gflops, 1),
            "Encoded images/s": backbones.number(encoded and encoded.images_per_second, 0),
            "Trained images/s": backbones.number(speed, 0),
            "GPU-hours": backbones.number(hours, 0),
        }
    backbones.write(config, backbones.collect(config, entries.root, costs), gpu, files)


if __name__ == "__main__":
    command(
        table=write_table,
        reconstruction=write_reconstruction,
        backbones=write_backbones,
        card=write_card,
        provenance=write_provenance,
    )()
