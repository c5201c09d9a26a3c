"""Products of matrices whose result is worked on before it reaches memory, in Triton, for Hopper GPUs and later.

The libraries' products are no faster, and what follows them costs a pass over memory: the rotary positions of queries
and keys, and the gated MLP. Both work on pairs of neighbouring columns, which one thread holds.
"""

# Triton calls the kernel with pointers and compiles its body: Python's types do not describe it.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

ROWS, COLUMNS, INNER = 128, 256, 128
"""Tile of a result that a program works on at a time, and how many bytes of a row it takes at a time."""
GROUP, STAGES, WARPS = 8, 3, 8
"""Tiles that share their weights and run at about the same time; loads ahead; warps of a program."""


def runs_on(device: torch.device) -> bool:
    """Whether ``device`` has the hardware that these products are written for (tensor memory access)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


class Scaled(NamedTuple):
    """Rows of numbers of few bits, what each row is to be multiplied by, fp32, and the dtype of products with them."""

    numbers: Tensor
    scales: Tensor
    dtype: torch.dtype


def rotated(
    x: Tensor | Scaled, weight: Tensor | Scaled, bias: Tensor, cosines: Tensor, sines: Tensor, heads: int
) -> Tensor:  # fmt: skip
    """Project tokens (B, N, D) to queries, keys and values (B, N, 3, h, d), and turn the first two.

    Weight (3 D, D) has the dtype of the tokens, bias (3 D,) and the tables (N, d / 2) are fp32.
    """
    return _run("rotate", x, weight, bias, (3, heads, len(bias) // (3 * heads)), cosines, sines)


def gated(x: Tensor | Scaled, weight: Tensor | Scaled, bias: Tensor) -> Tensor:
    """silu(gate) value of tokens (B, N, D): (B, N, M); weight (2 M, D) and bias (2 M,) alternate gate and value."""
    return _run("swiglu", x, weight, bias, (len(bias) // 2,), bias, bias)


def _run(
    work: str, x: Tensor | Scaled, weight: Tensor | Scaled, bias: Tensor, shape: tuple[int, ...],
    cosines: Tensor, sines: Tensor,
) -> Tensor:  # fmt: skip
    """Return the result, (B, N, *shape), in the dtype of both factors."""
    scaled = isinstance(x, Scaled)
    (tokens, scales, dtype), (weights, weight_scales, _) = (
        factor if isinstance(factor, Scaled) else Scaled(factor, bias, factor.dtype) for factor in (x, weight)
    )
    output = tokens.new_empty(*tokens.shape[:2], *shape, dtype=dtype)
    inner = INNER // tokens.element_size()
    programs = torch.cuda.get_device_properties(tokens.device).multi_processor_count if tokens.is_cuda else 2
    product[(programs,)](
        TensorDescriptor.from_tensor(tokens.flatten(0, 1), [ROWS, inner]),
        TensorDescriptor.from_tensor(weights, [COLUMNS, inner]),
        scales, weight_scales, bias, output, cosines, sines, tokens.shape[0] * tokens.shape[1], tokens.shape[1],
        WORK=work, SCALED=scaled, INPUTS=tokens.shape[2], OUTPUTS=len(bias), HEAD=shape[-1],
        TURNED=len(bias) // 3 * 2, ROWS=ROWS, COLUMNS=COLUMNS, INNER=inner, GROUP=GROUP,
        num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return output


@triton.jit
def product(
    x, weight, x_scales, weight_scales, bias, output, cosines, sines, rows, tokens,
    WORK: tl.constexpr, SCALED: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HEAD: tl.constexpr,
    TURNED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Rows of x (rows, INPUTS) times weight (OUTPUTS, INPUTS), and ``WORK`` on the result.

    "rotate": turn the first ``TURNED`` columns by the angles of their token and write (rows, OUTPUTS).
    "swiglu": write silu(even column) odd column, (rows, OUTPUTS / 2).
    ``SCALED`` factors are multiplied by one scale a row.
    """
    high: tl.constexpr = (OUTPUTS + COLUMNS - 1) // COLUMNS
    # One program a multiprocessor takes tiles in turn, so that loads for the next go on while this one is finished.
    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS) * high, tl.num_programs(0), flatten=True):
        first = tile // (GROUP * high) * GROUP
        group = tl.minimum(tl.cdiv(rows, ROWS) - first, GROUP)
        top, left = (first + tile % (GROUP * high) % group) * ROWS, tile % (GROUP * high) // group * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for inner in range(0, INPUTS, INNER):
            total = tl.dot(x.load([top, inner]), weight.load([left, inner]).T, total)
        column, row = left + tl.arange(0, COLUMNS), top + tl.arange(0, ROWS)
        pair = left // 2 + tl.arange(0, COLUMNS // 2)
        if SCALED:
            total *= tl.load(x_scales + row, row < rows, 0.0)[:, None]
            total *= tl.load(weight_scales + column, column < OUTPUTS, 0.0)[None]
        total += tl.load(bias + column, column < OUTPUTS, 0.0)[None]
        even, odd = tl.split(tl.reshape(total, (ROWS, COLUMNS // 2, 2)))
        if WORK == "swiglu":
            place = row[:, None].to(tl.int64) * (OUTPUTS // 2) + pair[None]
            inside = (row < rows)[:, None] & (pair < OUTPUTS // 2)[None]
            tl.store(output + place, even * tl.sigmoid(even) * odd, inside)
        else:
            angle = (row % tokens)[:, None] * (HEAD // 2) + (pair % (HEAD // 2))[None]
            turned = (pair < TURNED // 2)[None]
            cosine, sine = tl.load(cosines + angle, turned, 1.0), tl.load(sines + angle, turned, 0.0)
            result = tl.join(even * cosine - odd * sine, odd * cosine + even * sine)
            place = row[:, None].to(tl.int64) * OUTPUTS + column[None]
            inside = (row < rows)[:, None] & (column < OUTPUTS)[None]
            tl.store(output + place, tl.reshape(result, (ROWS, COLUMNS)), inside)
