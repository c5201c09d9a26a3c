"""Attention by every kernel that there is for it: `PYTHONPATH=src python -m benchmarks.kernels`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from benchmarks import machine
from dsr.accel import flash_attention as ours

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

CASES = [
    ("DiT-XL", torch.bfloat16, (128, 292, 16, 72), True),
    ("DiT-DH head", torch.bfloat16, (128, 292, 16, 128), True),
    ("DiT-XL", torch.float32, (64, 292, 16, 72), True),
    ("SigLIP2-B", torch.float16, (128, 257, 12, 64), False),
    ("SigLIP2-B", torch.float32, (128, 257, 12, 64), False),
    ("So400M", torch.float16, (128, 257, 16, 72), False),
    ("So400M", torch.float32, (128, 257, 16, 72), False),
]
"""Model, dtype, (batch, tokens, heads, head width), and whether there is a backward pass."""

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def time_libraries(packed: Tensor, way: str, *, backward: bool) -> float:
    """Seconds of one of PyTorch's kernels."""
    query, key, value = inputs = [x.requires_grad_(backward) for x in packed.detach().transpose(1, 3).unbind(2)]
    attend = torch.compile(flex_attention, dynamic=False) if way == "flex" else _backend(way)
    upstream = torch.randn_like(query)

    def run() -> None:
        out = attend(query, key, value)
        if backward:
            torch.autograd.grad(out, inputs, upstream)

    return machine.seconds(run, repeats=10, warmup=3)


def time_ours(packed: Tensor, *, backward: bool) -> float:
    """Seconds of our attention; its backward pass also rotates gradients back and sums a bias's gradient."""
    _, tokens, _, heads, head = packed.shape
    angles = torch.randn(2, tokens, head // 2, device="cuda")
    upstream = torch.randn(len(packed), tokens, heads, head, device="cuda", dtype=packed.dtype)

    def run() -> None:
        attended, logarithms = ours.forward(packed, keep=backward)
        if backward:
            ours.backward(packed, attended, logarithms, upstream, *angles)

    return machine.seconds(run, repeats=10, warmup=3)


def _backend(name: str) -> Attend:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(BACKENDS[name]):
            return F.scaled_dot_product_attention(query, key, value)

    return attend


def measure() -> list[dict[str, Any]]:
    """Time every kernel; one that does not exist for a shape is reported as such."""
    torch.backends.cuda.matmul.allow_tf32 = True
    results = []
    for model, dtype, (batch, tokens, heads, head), backward in CASES:
        packed = torch.randn(batch, tokens, 3, heads, head, device="cuda", dtype=dtype)
        flops = 4 * batch * heads * tokens**2 * head * (3.5 if backward else 1)
        for way in ("ours", *BACKENDS, *([] if backward else ["flex"])):
            line: dict[str, Any] = {"model": model, "dtype": str(dtype).removeprefix("torch."), "way": way}
            try:
                time = (
                    time_ours(packed, backward=backward)
                    if way == "ours"
                    else time_libraries(packed, way, backward=backward)
                )
            except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
                results.append({**line, "pass": str(error).splitlines()[0][:40]})
                continue
            passes = "both" if backward else "forward"
            results.append({**line, "pass": passes, "ms": 1000 * time, "TFLOP/s": flops / time / 1e12})
    return results


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__)
    machine.add_output(parser)
    options = parser.parse_args()
    machine.one_gpu()
    machine.report(measure(), options.json)


if __name__ == "__main__":
    main()
