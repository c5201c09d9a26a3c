"""Errors of the fast paths against plain float32.

Relative errors ||fast - exact|| / ||exact||, of full-size models with random weights.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

import torch
from torch import Tensor

from benchmarks import inputs
from benchmarks.encode import autoencoder
from dsr.accel.device import round_matmul_weights, set_arithmetic
from dsr.accel.models import accelerate, accelerated_encode
from dsr.config.load import Config
from dsr.config.sampling import Guidance
from dsr.encoder.autoencoder import build_decoder
from dsr.flow import Flow
from dsr.sampling.ode import trajectory


def error(fast: Tensor, exact: Tensor) -> float:
    """Relative error in the L2 norm."""
    return float((fast.double() - exact.double()).norm() / exact.double().norm())


def denoiser(config: Config, row: str, batch: int = 8) -> list[dict[str, Any]]:
    """Compare prediction, gradient and sampled latents of a row's denoiser."""
    spec = config.train(row)
    model = inputs.denoiser(spec.model)
    flow = Flow.from_config(spec.flow)
    shape = (batch, spec.model.channels, spec.model.grid, spec.model.grid)
    clean, noise = torch.randn(shape, device="cuda"), torch.randn(shape, device="cuda")
    t = flow.times(torch.rand(batch, device="cuda"))
    y = torch.randint(spec.model.classes, (batch,), device="cuda")
    with torch.device("cuda"):
        decoder = build_decoder(config.sample(row, "unguided", 0).autoencoder)

    def decode(latents: Tensor) -> Tensor:
        return decoder(latents.flatten(2).transpose(1, 2))

    def trained(precision: str) -> dict[str, Tensor]:
        set_arithmetic(precision, 1)
        model.zero_grad(set_to_none=True)
        with _autocast(precision):
            prediction = model(flow.interpolate(clean, noise, t), t, y)
        flow.loss(prediction.float(), clean, noise, t).mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return {"prediction": prediction.detach(), "gradient": gradient}

    def sampled(precision: str) -> dict[str, Tensor]:
        set_arithmetic(precision, 1)
        with torch.inference_mode(), _autocast(precision):
            states = trajectory(
                model, flow, noise, y, null_label=spec.model.classes, steps=50, guidance=Guidance(scale=1.0)
            )
            latents = deque(states, maxlen=1).pop()
            return {"sampled latents": latents, "images": decode(latents.float()).float()}

    exact = trained("fp32") | sampled("fp32")
    results: list[dict[str, Any]] = []

    def compare(way: str, precision: str, values: dict[str, Tensor]) -> None:
        errors = {name: error(value, exact[name]) for name, value in values.items()}
        results.append({"model": row, "way": way, "precision": precision, **errors})

    for precision in ("tf32", "bf16"):
        compare("eager", precision, trained(precision) | sampled(precision))
    for precision in ("tf32", "bf16"):
        accelerate(model, clean.device, precision)
        compare("fast", precision, trained(precision))
    round_matmul_weights(model, torch.bfloat16)
    model.requires_grad_(False)
    accelerate(model, clean.device, "bf16")
    compare("fast, bf16 weights", "bf16", sampled("bf16"))
    return results


def encoder(config: Config, row: str, batch: int = 16) -> list[dict[str, Any]]:
    """Compare the latents of a row's encoder."""
    spec = config.train(row).encoding
    model = autoencoder(spec, torch.device("cuda"))
    pixels = torch.rand(batch, 3, spec.image_size, spec.image_size, device="cuda")
    set_arithmetic("fp32", 1)
    exact = model.encode(pixels)
    set_arithmetic("tf32", 1)
    name = spec.encoder.hub.split("/")[1]
    results = [{"model": name, "way": "eager", "precision": "tf32", "latents": error(model.encode(pixels), exact)}]
    for precision in ("tf32", "float16"):
        if precision == "float16":
            model.use_half()
        latents = accelerated_encode(model, pixels.device)(pixels)
        results.append({"model": name, "way": "fast", "precision": precision, "latents": error(latents, exact)})
    return results


def _autocast(precision: str) -> contextlib.AbstractContextManager[None]:
    return torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16")
