"""Registers that were added to a DiT beside registers that are built in: `python -m benchmarks.registers`.

The same DiT-XL, compiled by PyTorch, forwards and backwards in bf16: without registers, with those of `dsr.registers`
added to the plain one, and with its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks import inputs, machine
from dsr.denoiser.layers import RotaryPositions
from dsr.registers import add_diffusion_registers

BATCH, STEPS = 64, 10


def models() -> dict[str, nn.Module]:
    """Return the three models."""
    spec = inputs.configuration().train("dit-siglip2b-dsr").model
    plain = spec.model_copy(update={"registers": 0})
    added: Any = inputs.denoiser(plain)
    network: Any = spec.denoiser
    rotary = RotaryPositions(network.hidden_size // network.num_heads, spec.grid, spec.registers)
    add_diffusion_registers(
        added, added.blocks, start=network.register_start, width=network.hidden_size, count=spec.registers,
        arguments={"rope": lambda _: rotary.cuda()},
    )  # fmt: skip
    return {"without": inputs.denoiser(plain), "added": added, "built in": inputs.denoiser(spec)}


def main() -> None:
    """Time them in turn, and print the medians."""
    machine.one_gpu()
    images = {"x": torch.randn(BATCH, 768, 16, 16), "t": torch.rand(BATCH), "y": torch.zeros(BATCH, dtype=torch.int64)}
    images = {name: value.cuda() for name, value in images.items()}
    steps, times = dict[str, Callable[..., None]](), dict[str, list[float]]()
    for name, model in models().items():
        model.cuda().train()
        for block in model.blocks:
            block.compile(dynamic=False)

        def step(model: nn.Module = model) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(**images).float().square().mean()
            loss.backward()

        steps[name], times[name] = step, []
        for _ in range(3):
            step()
    for _ in range(STEPS):
        for name, step in steps.items():
            machine.synchronize()
            began = time.perf_counter()
            step()
            machine.synchronize()
            times[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in times.items()}
    machine.report(
        [
            {"registers": name, "ms": 1000 * value, "to built in": value / median["built in"]}
            for name, value in median.items()
        ]
    )


if __name__ == "__main__":
    main()
