"""Speed of sampling, from noise to shards on disk: `PYTHONPATH=src python -m benchmarks.sample`."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import inputs, machine
from dsr.accel.arithmetic import set_arithmetic
from dsr.analysis.cost import denoiser_cost
from dsr.config.execution import Execution
from dsr.sampling.generate import Job, draw
from dsr.sampling.sampler import Sampler
from dsr.sampling.shards import Shards


def measure(
    row: str,
    folder: Path,
    *,
    precision: str,
    batch: int,
    fast: bool,
    ceiling: dict[str, float],
    shards: int = 2,
    profile: bool = False,
) -> dict[str, Any]:
    """Draw and write ``shards`` parts of the paper's 50000 images, after a batch that warms up."""
    machine.fresh()
    world = machine.one_gpu()
    spec = inputs.paper().sample(row, "unguided", 0).model_copy(update={"precision": precision})
    set_arithmetic(spec.precision, 1)
    weights = inputs.denoiser_file(spec.model, folder / f"{row}.safetensors")
    statistics = inputs.statistics_file(spec.autoencoder, folder / f"{row}-statistics.safetensors")
    decoder = folder / "decoder.safetensors"
    if not decoder.exists():
        inputs.decoder_file(spec.autoencoder, decoder)
    execution = Execution(sample_batch=batch)
    job = Job(spec, weights, statistics, decoder, folder / f"{row}-shards", folder / "unused.npz", execution)
    sampler = Sampler(spec, weights=weights, statistics=statistics, decoder=decoder, device=world.device, compiled=fast)
    weights.unlink()
    began = time.perf_counter()
    sampler.images(range(batch))
    first = time.perf_counter() - began
    side = spec.autoencoder.image_size
    parts = Shards(job.shards, {"measured": "speed"}, spec.images, (side, side, 3))
    began = time.perf_counter()
    draw(job, sampler, parts, list(range(shards)), world)
    speed = shards * len(parts.parts[0]) / (time.perf_counter() - began)
    achieved = (spec.steps - 1) * denoiser_cost(spec.model).flops * speed
    ode = machine.seconds(lambda: sampler.latents(range(batch)), repeats=1, warmup=0)
    whole = machine.seconds(lambda: sampler.start(range(batch)), repeats=1, warmup=0)
    result: dict[str, Any] = {
        "stage": "sample",
        "row": row,
        "precision": precision,
        "batch": batch,
        "compiled": fast,
        "images/s": speed,
        "TFLOP/s": achieved / 1e12,
        "of ceiling": achieved / ceiling["tf32" if precision == "tf32" else "bf16"],
        "peak GiB": machine.peak_gib(),
        "first batch s": first,
        "batch (s)": {"all": round(batch / speed, 3), "ODE": round(ode, 3), "decode, copy": round(whole - ode, 3)},
    }
    if profile:
        result["kernels (ms)"] = machine.kernel_times(lambda: sampler.images(range(batch)), 1)
    return result


def main() -> None:
    """Measure rows of both denoisers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=["dit-siglip2b-dsr", "ditdh-siglip2b-dsr"], help="rows")
    parser.add_argument("--precision", default="bf16", choices=["tf32", "bf16"])
    parser.add_argument("--batch", type=int, default=125, help="images that are drawn together")
    parser.add_argument("--shards", type=int, default=4, help="shards of 500 images to draw")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--profile", action="store_true", help="list kernels")
    machine.add_output(parser)
    options = parser.parse_args()
    machine.one_gpu()
    ceiling = machine.ceilings()
    with tempfile.TemporaryDirectory() as folder:
        results = [
            measure(
                row,
                Path(folder),
                precision=options.precision,
                batch=options.batch,
                fast=not options.eager,
                ceiling=ceiling,
                shards=options.shards,
                profile=options.profile,
            )
            for row in options.rows
        ]
    machine.report(results, options.json)


if __name__ == "__main__":
    main()
