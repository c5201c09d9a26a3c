"""What the blocks of a denoiser are made of, beside what it costs by libraries: `python -m benchmarks.blocks`.

Kernels between products are compared with the memory that they must move, products that do more than multiply with the
product and the kernel that they replace, and gradients of TF32 products with the same without transposing first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import machine
from dsr.accel import fused
from dsr.accel import matmul as products
from dsr.denoiser.layers import RotaryPositions

WIDTH, HEADS, HIDDEN, TOKENS, GRID, REGISTERS = 1152, 16, 3072, 292, 16, 36
"""DiT-XL with diffusion registers."""

Run = Callable[[], Any]


def kernels(batch: int, dtype: torch.dtype) -> dict[str, tuple[Run, Run, int, int]]:
    """Forward pass, both passes, and the bytes that each pass must move, for every kernel."""
    stream = _leaf(batch, TOKENS, WIDTH)
    update, product = _leaf(batch, TOKENS, WIDTH, dtype=dtype), _leaf(batch, TOKENS, 2 * HIDDEN, dtype=dtype)
    condition, bias, gate_bias = _leaf(batch, 1, 6 * WIDTH, dtype=dtype), _leaf(WIDTH), _leaf(2 * HIDDEN)
    shift, scale, gate = condition.chunk(6, dim=-1)[:3]
    full, half = stream.numel() * stream.element_size(), update.numel() * update.element_size()

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

    wide = half * HIDDEN // WIDTH
    return {
        "modulate": (modulated, modulated_back, 2 * full + 2 * half, 3 * full + 3 * half),
        "swiglu": (gated, gated_back, 3 * wide, 5 * wide),
    }


def working_products(batch: int) -> dict[str, tuple[Run, Run]]:
    """Products in bf16 that do more than multiply, and what they replace."""
    x = torch.randn(batch, TOKENS, WIDTH, device="cuda", dtype=torch.bfloat16)
    qkv, w12 = (torch.randn(rows, WIDTH, device="cuda").bfloat16() / 30 for rows in (3 * WIDTH, 2 * HIDDEN))
    bias, gate_bias = torch.randn(3 * WIDTH, device="cuda"), torch.randn(2 * HIDDEN, device="cuda")
    angles = fused.Angles.of(RotaryPositions(WIDTH // HEADS, GRID, REGISTERS).cuda())

    def rotated() -> None:
        packed = F.linear(x, qkv, bias.bfloat16()).unflatten(-1, (3, HEADS, -1))
        fused._rotate(packed, *angles)

    return {
        "rotate": (lambda: products.rotated(x, qkv, bias, *angles, HEADS), rotated),
        "swiglu": (
            lambda: products.gated(x, w12, gate_bias),
            lambda: fused.swiglu(F.linear(x, w12), gate_bias),
        ),
    }


def tf32_gradients(batch: int) -> dict[str, tuple[Run, Run]]:
    """Gradients of the products of a block in TF32, and what PyTorch's autograd would do."""
    found: dict[str, tuple[Run, Run]] = {}
    for inputs, outputs in ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 2 * HIDDEN), (HIDDEN, WIDTH)):
        x, grad = (torch.randn(batch, TOKENS, width, device="cuda") for width in (inputs, outputs))
        weight = torch.randn(outputs, inputs, device="cuda")

        def ours(x: Tensor = x, grad: Tensor = grad, weight: Tensor = weight) -> Any:
            return fused._of_input(grad, x, weight)

        def plain(x: Tensor = x, grad: Tensor = grad, weight: Tensor = weight) -> Any:
            return grad @ weight, grad.flatten(0, 1).t() @ x.flatten(0, 1)

        found[f"gradients {inputs} to {outputs}"] = (ours, plain)
    return found


def _leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype).requires_grad_()


def _milliseconds(run: Run) -> float:
    return 1000 * machine.seconds(run, repeats=5, warmup=1, times_each=20)


def measure() -> list[dict[str, Any]]:
    """Time everything; the rate is that of memory in TB/s."""
    torch.backends.cuda.matmul.allow_tf32 = True
    results: list[dict[str, Any]] = []
    for batch, dtype in ((128, torch.bfloat16), (64, torch.float32)):
        for name, (forward, both, moved, moved_back) in kernels(batch, dtype).items():
            once = _milliseconds(forward)
            back = _milliseconds(both) - once
            for way, time, size in (("forward", once, moved), ("backward", back, moved_back)):
                line = {"what": f"{name} {way}", "dtype": str(dtype).removeprefix("torch."), "ms": time}
                results.append({**line, "TB/s": size / time / 1e9})
        torch.cuda.empty_cache()
    for dtype_name, cases in (("bfloat16", working_products(128)), ("float32", tf32_gradients(64))):
        for name, (ours, plain) in cases.items():
            time, before = _milliseconds(ours), _milliseconds(plain)
            results.append(
                {"what": name, "dtype": dtype_name, "ms": time, "libraries ms": before, "ratio": before / time}
            )
    return results


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_output(parser)
    options = parser.parse_args()
    machine.one_gpu()
    machine.report(measure(), options.json)


if __name__ == "__main__":
    main()
