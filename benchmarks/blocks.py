"""Fused kernels beside the memory they must move, and products: `PYTHONPATH=src python -m benchmarks.blocks`.

The products themselves are timed at the batches that training and sampling may use.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import machine
from dsr.denoiser import fused
from dsr.denoiser.layers import RotaryPositions

WIDTH, HEADS, HIDDEN, TOKENS, GRID, REGISTERS = 1152, 16, 3072, 292, 16, 36
"""DiT-XL with diffusion registers."""


def kernel_cases(batch: int, dtype: torch.dtype) -> dict[str, tuple[Callable[[], Any], Callable[[], Any], int, int]]:
    """Forward pass, both passes, and the bytes that each pass must move, for every kernel."""
    stream = _leaf(batch, TOKENS, WIDTH)
    update, product = _leaf(batch, TOKENS, WIDTH, dtype=dtype), _leaf(batch, TOKENS, 2 * HIDDEN, dtype=dtype)
    condition, bias, gate_bias = _leaf(batch, 1, 6 * WIDTH, dtype=dtype), _leaf(WIDTH), _leaf(2 * HIDDEN)
    shift, scale, gate = condition.chunk(6, dim=-1)[:3]
    rope = RotaryPositions(WIDTH // HEADS, GRID, REGISTERS).cuda()
    cosines, sines = (table[:, ::2].contiguous() for table in (rope.freqs_cos, rope.freqs_sin))
    heads = torch.randn(batch, TOKENS, 3, HEADS, WIDTH // HEADS, device="cuda", dtype=dtype).permute(2, 0, 3, 1, 4)
    parts = [part.contiguous().transpose(1, 2).contiguous().transpose(1, 2) for part in heads]
    size, full, small = stream.numel() * stream.element_size(), batch * TOKENS * HIDDEN, update.element_size()

    def modulated() -> tuple[Tensor, Tensor]:
        return fused.modulated(stream, update, bias, gate, bias, scale, shift)

    def modulated_back() -> None:
        outputs = modulated()
        torch.autograd.grad(outputs, (stream, update, bias, condition), [x.detach() for x in outputs])

    def gated() -> Tensor:
        return fused.swiglu(product, gate_bias)

    def gated_back() -> None:
        output = gated()
        torch.autograd.grad(output, (product, gate_bias), output.detach())

    def turned() -> None:
        for part in range(2):
            fused._rotate(heads[part], heads[part], cosines, sines, turn=1)

    def turned_back() -> None:
        turned()
        for part, turn in enumerate((-1, -1, 0)):
            fused._rotate(parts[part], heads[part], cosines, sines, turn=turn)

    half = update.numel() * small
    return {
        "modulate": (modulated, modulated_back, 2 * size + 2 * half, 3 * size + 3 * half),
        "swiglu": (gated, gated_back, 3 * full * small, 5 * full * small),
        "rotate": (turned, turned_back, 4 * half, 6 * half),
    }


def _leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype).requires_grad_()


def product(batch: int, tokens: int, inputs: int, outputs: int, dtype: torch.dtype) -> dict[str, Any]:
    """Time one linear layer."""
    x = torch.randn(batch * tokens, inputs, device="cuda", dtype=dtype)
    weight = torch.randn(outputs, inputs, device="cuda", dtype=dtype)
    time = machine.seconds(lambda: torch.nn.functional.linear(x, weight), repeats=5, warmup=1, times_each=20)
    flops = 2 * batch * tokens * inputs * outputs
    return {"kernel": f"product {inputs} to {outputs}", "batch": batch, "ms": 1000 * time, "rate": flops / time / 1e12}


def measure() -> list[dict[str, Any]]:
    """Time every kernel, forwards and backwards, and the products."""
    torch.backends.cuda.matmul.allow_tf32 = True
    results = []
    for batch, dtype in ((128, torch.bfloat16), (64, torch.float32)):
        for name, (forward, both, moved, moved_back) in kernel_cases(batch, dtype).items():
            once = machine.seconds(forward, repeats=5, warmup=1, times_each=20)
            back = machine.seconds(both, repeats=5, warmup=1, times_each=20) - once
            for way, time, size in (("forward", once, moved), ("backward", back, moved_back)):
                line = {"kernel": f"{name} {way}", "batch": batch, "ms": 1000 * time, "rate": size / time / 1e12}
                results.append({**line, "dtype": str(dtype).removeprefix("torch.")})
        torch.cuda.empty_cache()
    for batch in (125, 128, 250, 256):
        results += [
            product(batch, TOKENS, inputs, outputs, torch.bfloat16)
            for inputs, outputs in ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 2 * HIDDEN), (HIDDEN, WIDTH))
        ]
    return results


def main() -> None:
    """Measure all; the rate is TB/s of the kernels and TFLOP/s of the products."""
    parser = argparse.ArgumentParser(description=__doc__)
    machine.add_output(parser)
    options = parser.parse_args()
    machine.one_gpu()
    machine.report(measure(), options.json)


if __name__ == "__main__":
    main()
