"""Matmuls fused with RoPE or SwiGLU, in Triton, for Hopper GPUs and later.

The libraries' matmuls are no faster, and what follows them costs a pass over memory: RoPE of queries and keys, and the
gated MLP. Both work on pairs of neighbouring columns, which one thread holds.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

ROWS, COLUMNS, INNER = 128, 256, 64
"""Tile of a result that a program works on at a time, and how many columns of both factors it takes at a time."""
GROUP, STAGES, WARPS = 8, 3, 8
"""Tiles that share their weights and run at about the same time; loads ahead; warps of a program."""


def runs_on(device: torch.device) -> bool:
    """Whether ``device`` has the hardware that these matmuls are written for (tensor memory access)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def matmul_rope(x: Tensor, weight: Tensor, bias: Tensor, cosines: Tensor, sines: Tensor, heads: int) -> Tensor:
    """Project tokens (B, N, D) to queries, keys and values (B, N, 3, h, d), and rotate the first two.

    Weight (3 D, D) has the two-byte dtype of the tokens, bias (3 D,) and the tables (N, d / 2) are fp32.
    """
    return _run("rope", x, weight, bias, (3, heads, len(bias) // (3 * heads)), cosines, sines)


def matmul_swiglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """silu(gate) value of tokens (B, N, D): (B, N, M); weight (2 M, D) and bias (2 M,) alternate gate and value."""
    return _run("swiglu", x, weight, bias, (len(bias) // 2,), bias, bias)


def _run(
    epilogue: str, x: Tensor, weight: Tensor, bias: Tensor, shape: tuple[int, ...], cosines: Tensor, sines: Tensor
) -> Tensor:
    """Return the result, (B, N, *shape), in the dtype of both factors."""
    images, tokens, inputs = x.shape
    output = x.new_empty(images, tokens, *shape)
    programs = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 2
    matmul[(programs,)](
        TensorDescriptor.from_tensor(x.flatten(0, 1), [ROWS, INNER]),
        TensorDescriptor.from_tensor(weight, [COLUMNS, INNER]),
        bias, output, cosines, sines, images * tokens, tokens,
        EPILOGUE=epilogue, INPUTS=inputs, OUTPUTS=len(bias), HEAD=shape[-1], ROTATED=len(bias) // 3 * 2,
        ROWS=ROWS, COLUMNS=COLUMNS, INNER=INNER, GROUP=GROUP, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return output


@triton.jit
def matmul(
    x, weight, bias, output, cosines, sines, rows, tokens,
    EPILOGUE: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HEAD: tl.constexpr, ROTATED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Rows of x (rows, INPUTS) times weight (OUTPUTS, INPUTS), and an ``EPILOGUE`` on the result.

    "rope": rotate the first ``ROTATED`` columns by the angles of their token and write (rows, OUTPUTS).
    "swiglu": write silu(even column) odd column, (rows, OUTPUTS / 2).
    """
    across: tl.constexpr = (OUTPUTS + COLUMNS - 1) // COLUMNS
    # One program a multiprocessor takes tiles in turn, so that loads for the next go on while this one is finished.
    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS) * across, tl.num_programs(0), flatten=True):
        first = tile // (GROUP * across) * GROUP
        group = tl.minimum(tl.cdiv(rows, ROWS) - first, GROUP)
        top, left = (first + tile % (GROUP * across) % group) * ROWS, tile % (GROUP * across) // group * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for inner in range(0, INPUTS, INNER):
            total = tl.dot(x.load([top, inner]), weight.load([left, inner]).T, total)
        column, row = left + tl.arange(0, COLUMNS), top + tl.arange(0, ROWS)
        pair = left // 2 + tl.arange(0, COLUMNS // 2)
        total += tl.load(bias + column, column < OUTPUTS, 0.0)[None]
        even, odd = tl.split(tl.reshape(total, (ROWS, COLUMNS // 2, 2)))
        if EPILOGUE == "swiglu":
            place = row[:, None].to(tl.int64) * (OUTPUTS // 2) + pair[None]
            inside = (row < rows)[:, None] & (pair < OUTPUTS // 2)[None]
            tl.store(output + place, even * tl.sigmoid(even) * odd, inside)
        else:
            angle = (row % tokens)[:, None] * (HEAD // 2) + (pair % (HEAD // 2))[None]
            rotated = (pair < ROTATED // 2)[None]
            cosine, sine = tl.load(cosines + angle, rotated, 1.0), tl.load(sines + angle, rotated, 0.0)
            result = tl.join(even * cosine - odd * sine, odd * cosine + even * sine)
            place = row[:, None].to(tl.int64) * OUTPUTS + column[None]
            inside = (row < rows)[:, None] & (column < OUTPUTS)[None]
            tl.store(output + place, tl.reshape(result, (ROWS, COLUMNS)), inside)
