"""Speed of sampling, from noise to shards on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks import inputs, machine
from dsr.accel.device import set_arithmetic
from dsr.analysis.cost import denoiser_cost
from dsr.base.randomness import balanced_labels
from dsr.config.load import Config
from dsr.demo.made import write_decoder
from dsr.sampling.generate import Shards, draw
from dsr.sampling.sampler import Sampler


def measure(
    config: Config,
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
    world = machine.one_gpu(needed=fast)
    spec = config.sample(row, "unguided", 0).model_copy(update={"precision": precision})
    set_arithmetic(spec.precision, 1)
    weights = inputs.denoiser_file(spec.model, folder / f"{row}.safetensors")
    statistics = inputs.statistics_file(spec.autoencoder, folder / f"{row}-statistics.safetensors")
    decoder = folder / "decoder.safetensors"
    if not decoder.exists():
        write_decoder(spec.autoencoder, decoder)
    sampler = Sampler(spec, weights=weights, statistics=statistics, decoder=decoder, device=world.device, compiled=fast)
    weights.unlink()
    began = time.perf_counter()
    sampler.start(range(batch))()
    first = time.perf_counter() - began
    side = spec.autoencoder.image_size
    parts = Shards(folder / f"{row}-shards", {"measured": "speed"}, spec.images, (side, side, 3))
    began = time.perf_counter()
    draw(batch, sampler.start, parts, list(range(shards)), world)
    speed = shards * len(parts.parts[0]) / (time.perf_counter() - began)
    achieved = (spec.steps - 1) * denoiser_cost(spec.model).flops * speed
    labels = balanced_labels(spec.model.classes, spec.images, spec.seed)[:batch]
    ode = machine.seconds(lambda: sampler.latents(range(batch), labels, spec.seed), repeats=1, warmup=0)
    whole = machine.seconds(lambda: sampler.start(range(batch)), repeats=1, warmup=0)
    result: dict[str, Any] = {
        "stage": "sample",
        "row": row,
        "precision": precision,
        "batch": batch,
        "compiled": fast,
        "images/s": speed,
        "TFLOP/s": achieved / 1e12,
        "of ceiling": achieved / ceiling[precision],
        "peak GiB": machine.peak_gib(),
        "first batch s": first,
        "batch (s)": {"all": round(batch / speed, 3), "ODE": round(ode, 3), "decode, copy": round(whole - ode, 3)},
    }
    if profile:
        result["kernels (ms)"] = machine.kernel_times(lambda: sampler.start(range(batch))(), 1)
    return result
