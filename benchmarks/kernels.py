"""Alternatives for the kernels that matter, timed one by one: `PYTHONPATH=src python -m benchmarks.kernels`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from benchmarks import machine
from dsr.attention import by_products

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

SHAPES = {
    "DiT-XL": (128, 16, 292, 72),
    "DiT-DH head": (128, 16, 292, 128),
    "SigLIP2-B": (128, 12, 257, 64),
    "So400M": (128, 16, 257, 72),
}
"""Batch, heads, tokens and head width of every attention."""

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def attention(name: str, dtype: torch.dtype, way: str, *, backward: bool, **blocks: int) -> dict[str, Any]:
    """Time one attention, its inputs laid out as a projection leaves them."""
    batch, heads, tokens, width = SHAPES[name]
    packed = torch.randn(batch, tokens, 3, heads, width, device="cuda", dtype=dtype)
    inputs = [part.transpose(1, 2).requires_grad_(backward) for part in packed.unbind(2)]
    if way == "flex":
        attend: Attend = torch.compile(lambda q, k, v: flex_attention(q, k, v, kernel_options=blocks), dynamic=False)
    elif way == "products":
        attend = torch.compile(by_products, dynamic=False)
    else:
        attend = _backend(way)

    def run() -> None:
        out = attend(*inputs)
        if backward:
            torch.autograd.grad(out, inputs, out)

    flops = 4 * batch * heads * tokens**2 * width * (3.5 if backward else 1)
    time = machine.seconds(run, repeats=10, warmup=3)
    return {
        "kernel": f"attention {name}",
        "dtype": str(dtype).removeprefix("torch."),
        "way": " ".join([way, *(f"{key.lower()}={value}" for key, value in blocks.items())]),
        "pass": "both" if backward else "forward",
        "ms": 1000 * time,
        "TFLOP/s": flops / time / 1e12,
    }


def hidden_layers(rows: int, width: int, hidden: int) -> list[dict[str, Any]]:
    """Time an encoder's first MLP layer in TF32: the product alone, with GELU after it, and with GELU within it."""
    x, weight, bias = (torch.randn(*shape, device="cuda") for shape in ((rows, width), (hidden, width), (hidden,)))
    ways: dict[str, Callable[[], Tensor]] = {
        "product": lambda: F.linear(x, weight, bias),
        "product, GELU": torch.compile(lambda: F.gelu(F.linear(x, weight, bias), approximate="tanh"), dynamic=False),
        "product with GELU": lambda: torch._addmm_activation(bias, x, weight.t(), use_gelu=True),
    }
    exact = F.gelu(F.linear(x.double(), weight.double(), bias.double()), approximate="tanh")
    results = []
    for way, run in ways.items():
        time = machine.seconds(run, repeats=10, warmup=3)
        error = float("nan") if way == "product" else float((run() - exact).norm() / exact.norm())
        speed = 2 * rows * width * hidden / time / 1e12
        results.append(
            {"kernel": "MLP", "dtype": "tf32", "way": way, "ms": 1000 * time, "TFLOP/s": speed, "error": error}
        )
    return results


def _backend(name: str) -> Attend:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(BACKENDS[name]):
            return F.scaled_dot_product_attention(query, key, value)

    return attend


def measure(ways: Sequence[str] = ("flash", "cudnn", "efficient", "flex", "products", "MLP")) -> list[dict[str, Any]]:
    """Time alternatives; one that does not exist for a shape is reported as such."""
    torch.backends.cuda.matmul.allow_tf32 = True
    half, full = torch.bfloat16, torch.float32
    cases: list[tuple[str, torch.dtype, str, bool, dict[str, int]]] = [
        *(("DiT-XL", half, way, backward, {}) for way in ("flash", "cudnn") for backward in (False, True)),
        *(("DiT-DH head", half, way, True, {}) for way in ("flash", "cudnn")),
        *(("DiT-XL", full, way, True, {}) for way in ("efficient", "flex", "products")),
        *(
            (name, full, way, False, {})
            for name in ("SigLIP2-B", "So400M")
            for way in ("efficient", "flex", "products")
        ),
        *(("SigLIP2-B", full, "flex", False, {"BLOCK_M": m, "BLOCK_N": n}) for m, n in ((64, 32), (64, 64), (128, 64))),
    ]
    results = []
    for name, dtype, way, backward, blocks in cases:
        if way not in ways:
            continue
        try:
            results.append(attention(name, dtype, way, backward=backward, **blocks))
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            results.append({"kernel": f"attention {name}", "way": way, "pass": str(error).splitlines()[0][:60]})
    return results + (hidden_layers(128 * 257, 768, 3072) if "MLP" in ways else [])


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__)
    machine.add_output(parser)
    options = parser.parse_args()
    machine.one_gpu()
    machine.report(measure(), options.json)


if __name__ == "__main__":
    main()
