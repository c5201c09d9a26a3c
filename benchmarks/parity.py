"""Errors of the fast paths against plain float32.

Relative errors ||fast - exact|| / ||exact||, of full-size models with random weights.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import torch
from torch import Tensor

from benchmarks import inputs
from benchmarks.encode import autoencoder
from dsr.accel.device import HALF, autocast, round_matmul_weights, set_arithmetic
from dsr.accel.models import accelerate, accelerated_encode
from dsr.config.load import Config
from dsr.config.sampling import Guidance
from dsr.encoder.autoencoder import build_decoder
from dsr.flow import Flow
from dsr.sampling.sampler import trajectory
from dsr.training.learner import first_loss_scale


def error(fast: Tensor, exact: Tensor) -> float:
    """Relative error in the L2 norm."""
    return float((fast.double() - exact.double()).norm() / exact.double().norm())


def denoiser(config: Config, row: str, batch: int = 8, *, outliers: bool = False) -> list[dict[str, Any]]:
    """Compare prediction, gradient and sampled latents of a row's denoiser, with planted outlier tokens if asked to."""
    spec = config.train(row)
    model = inputs.denoiser(spec.model)
    largest = inputs.plant_outliers(model) if outliers else {}
    flow = Flow.from_config(spec.flow)
    shape = (batch, spec.model.channels, spec.model.grid, spec.model.grid)
    clean, noise = torch.randn(shape, device="cuda"), torch.randn(shape, device="cuda")
    t = flow.times(torch.rand(batch, device="cuda"))
    y = torch.randint(spec.model.classes, (batch,), device="cuda")
    with torch.device("cuda"):
        decoder = build_decoder(config.sample(row, "unguided", 0).autoencoder)

    def decode(latents: Tensor) -> Tensor:
        return decoder(latents.flatten(2).transpose(1, 2))

    def trained(precision: str, lower: int = 0) -> dict[str, Tensor]:
        set_arithmetic(precision, 1)
        recipe = spec.recipe.model_copy(update={"precision": precision, "batch": batch})
        scale = (first_loss_scale(recipe) or 1.0) / 2**lower
        model.zero_grad(set_to_none=True)
        with autocast(clean.device, precision):
            prediction = model(flow.interpolate(clean, noise, t), t, y)
        (scale * flow.loss(prediction.float(), clean, noise, t).mean()).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) / scale
        return {"prediction": prediction.detach(), "gradient": gradient}

    def sampled(precision: str, drawn: torch.nn.Module = model) -> dict[str, Tensor]:
        set_arithmetic(precision, 1)
        with torch.inference_mode(), autocast(clean.device, precision):
            states = trajectory(
                drawn, flow, noise, y, null_label=spec.model.classes, steps=50, guidance=Guidance(scale=1.0)
            )
            latents = deque(states, maxlen=1).pop()
            return {"sampled latents": latents, "images": decode(latents.float()).float()}

    exact = trained("fp32") | sampled("fp32")
    results: list[dict[str, Any]] = []

    def compare(way: str, precision: str, values: dict[str, Tensor]) -> None:
        errors = {name: error(value, exact[name]) for name, value in values.items()}
        results.append({"model": row, "way": way, "precision": precision, **errors, **largest})

    for precision in ("tf32", "fp16", "bf16"):
        compare("eager", precision, trained(precision) | sampled(precision))
    for precision in ("tf32", "bf16", "fp16"):
        accelerate(model, clean.device, precision)
        compare("fast", precision, trained(precision))
    for lower in (-6, -3, 3, 6, 9, 12):
        compare(f"fast, loss scale / 2^{lower}", "fp16", trained("fp16", lower))
    for precision in ("fp16", "bf16"):
        frozen = copy.deepcopy(model).requires_grad_(False)
        round_matmul_weights(frozen, HALF[precision])
        accelerate(frozen, clean.device, precision)
        compare("fast, frozen", precision, sampled(precision, frozen))
    return results


def encoder(config: Config, row: str, batch: int = 16) -> list[dict[str, Any]]:
    """Compare the latents of a row's encoder."""
    spec = config.train(row).encoding
    model = autoencoder(config, spec, torch.device("cuda"))
    pixels = torch.rand(batch, 3, spec.image_size, spec.image_size, device="cuda")
    set_arithmetic("fp32", 1)
    exact = model.encode(pixels)
    set_arithmetic("tf32", 1)
    name = spec.encoder.hub.split("/")[1]
    results = [{"model": name, "way": "eager", "precision": "tf32", "latents": error(model.encode(pixels), exact)}]
    for precision in ("tf32", "float16"):
        if precision == "float16":
            model.in_half = True
        latents = accelerated_encode(model, pixels.device)(pixels)
        results.append({"model": name, "way": "fast", "precision": precision, "latents": error(latents, exact)})
    return results
