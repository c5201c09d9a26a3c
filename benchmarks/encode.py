"""Speed of the encoders, with and without test-time registers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import inputs, machine
from dsr.accel.device import set_arithmetic
from dsr.accel.models import accelerated_encode
from dsr.config.load import Config
from dsr.config.specs import EncoderSpec
from dsr.encoder.autoencoder import Autoencoder, load_autoencoder


def autoencoder(config: Config, spec: EncoderSpec, device: torch.device) -> Autoencoder:
    """Make an encoder with random weights, with the test-time registers of ``spec``."""
    with tempfile.TemporaryDirectory() as folder:
        encoder, neurons = inputs.encoder(config, spec, Path(folder))
        loaded = load_autoencoder(spec, encoder=encoder, neurons=neurons, statistics=None, decoder=None)
    return loaded.to(device)


def measure(
    config: Config,
    row: str,
    *,
    batch: int,
    fast: bool,
    ceiling: dict[str, float],
    profile: bool = False,
    ttr: bool = True,
    half: bool = False,
) -> dict[str, Any]:
    """Encode one batch again and again; without ``ttr``, the plain encoder of a row that has registers."""
    machine.fresh()
    set_arithmetic("tf32", 1)
    world = machine.one_gpu(needed=fast)
    spec = config.train(row).encoding
    if not ttr:
        spec = spec.model_copy(update={"ttr": "none", "ttr_options": None})
    model = autoencoder(config, spec, world.device)
    if half:
        model.in_half = True
    pixels = torch.rand(batch, 3, spec.image_size, spec.image_size, device=world.device)
    with FlopCounterMode(display=False) as counter:
        model.encode(pixels[:1])
    encode = accelerated_encode(model, pixels.device) if fast else model.encode
    time = machine.seconds(lambda: encode(pixels), repeats=10, warmup=3)
    achieved = counter.get_total_flops() * batch / time
    result: dict[str, Any] = {
        "stage": "encode",
        "encoder": spec.encoder.hub.split("/")[1],
        "ttr": spec.ttr,
        "matmuls": "float16" if half else "tf32",
        "batch": batch,
        "compiled": fast,
        "images/s": batch / time,
        "TFLOP/s": achieved / 1e12,
        "of ceiling": achieved / ceiling["fp16" if half else "tf32"],
        "peak GiB": machine.peak_gib(),
    }
    if profile:
        result["kernels (ms)"] = machine.kernel_times(lambda: [encode(pixels) for _ in range(3)], 3)
    return result
