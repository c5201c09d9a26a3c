"""The blocks of a denoiser on GPUs: the products of the reference, `dsr.denoiser.layers`, and fused kernels between.

Between two matrix products a block only moves memory. Written one operation at a time that takes as long as the
products; here every step is one kernel forwards and one backwards. The bias of a product is added by the kernel that
reads the product, because the same kernel's backward pass can then sum the bias's gradient without reading anything
again. For the same reason a block leaves its last update to the kernel that begins the next block.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsr.attention import is_tf32
from dsr.denoiser import kernels
from dsr.denoiser.layers import EPS, Attention, Block, RotaryPositions, SwiGLU

ROWS_A_PROGRAM, STAGES = 64, 2
"""Tokens that a program of a modulation's backward pass sums over, and how many of them it holds at once."""
TILE, COLUMNS = 16, 128
"""Tokens and channels that a program of the other kernels works on at once."""
ROWS_OF_SCORES = 4
"""Rows of attention's scores that a program of softmax takes."""
IMAGES_A_PROGRAM, TILES_A_PROGRAM = 16, 16
"""Times that a program repeats this, in kernels that turn and in SwiGLU's backward pass."""


def run_blocks(blocks: Iterable[Block], x: Tensor, condition: Tensor, rope: RotaryPositions) -> Tensor:
    """Pass tokens (B, N, D) fp32 through ``blocks`` one after the other; condition (B, 1 or N, D)."""
    update: Tensor | None = None
    bias: Tensor | None = None
    gate: Tensor | None = None
    x = x.contiguous()
    for block in blocks:
        shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(condition).chunk(6, dim=-1)
        x, hidden = modulated(x, update, bias, gate, block.norm1.weight, scale1, shift1)
        update, bias, gate = _attention(block.attn, hidden, rope), block.attn.proj.bias, gate1
        x, hidden = modulated(x, update, bias, gate, block.norm2.weight, scale2, shift2)
        update, bias, gate = _mlp(block.mlp, hidden), block.mlp.w3.bias, gate2
    if update is None or bias is None or gate is None:
        return x
    return x + gate * (update + bias)


def _attention(layer: Attention, hidden: Tensor, rope: RotaryPositions) -> Tensor:
    """Attention without the bias of its last product."""
    query, key, value = projected(hidden, layer.qkv.weight, layer.qkv.bias, rope, layer.heads)
    return F.linear(_attend(query, key, value).transpose(1, 2).flatten(2), layer.proj.weight)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention; by products where `dsr.attention` takes that way, but with a softmax that works in place."""
    if not is_tf32(query):
        return F.scaled_dot_product_attention(query, key, value)
    attended: Tensor = _Attended.apply(query, key, value)  # type: ignore[no-untyped-call]
    return attended


def _mlp(layer: SwiGLU, hidden: Tensor) -> Tensor:
    """Gated MLP without the bias of its last product."""
    # GPUs multiply matrices slowly whose rows do not begin at multiples of 16 bytes.
    missing = -layer.w3.in_features % 8
    w12, bias, w3 = layer.w12.weight.view(2, -1, hidden.shape[-1]), layer.w12.bias.view(2, -1), layer.w3.weight
    if missing:
        w12, bias, w3 = F.pad(w12, (0, 0, 0, missing)), F.pad(bias, (0, missing)), F.pad(w3, (0, missing))
    return F.linear(swiglu(F.linear(hidden, w12.flatten(0, 1)), bias.flatten()), w3)


def modulated(
    x: Tensor, update: Tensor | None, bias: Tensor | None, gate: Tensor | None, weight: Tensor, scale: Tensor,
    shift: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Add gate (update + bias) to the stream x, if there is an update, then normalise and modulate.

    Returns the stream (B, N, D), and what the next product reads, in the dtype of the modulation.
    """
    stream, hidden = _Modulated.apply(x, update, bias, gate, weight, scale, shift)  # type: ignore[no-untyped-call]
    return stream, hidden


def projected(
    hidden: Tensor, weight: Tensor, bias: Tensor, rope: RotaryPositions, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, h, N, d) of tokens (B, N, D); the first two are turned."""
    cosines, sines = (table[:, ::2].contiguous() for table in (rope.freqs_cos, rope.freqs_sin))
    weight, bias = weight.to(hidden.dtype), bias.to(hidden.dtype)
    query, key, value = _Projected.apply(hidden, weight, bias, cosines, sines, heads)  # type: ignore[no-untyped-call]
    return query, key, value


def swiglu(product: Tensor, bias: Tensor) -> Tensor:
    """silu(gate) value of a product (..., 2 M), gate before value, and its bias: (..., M)."""
    result: Tensor = _SwiGLU.apply(product, bias)  # type: ignore[no-untyped-call]
    return result


class _Modulated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, update: Tensor | None, bias: Tensor | None, gate: Tensor | None, weight: Tensor,
        scale: Tensor, shift: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        images, tokens, width = x.shape
        stream = x if update is None else torch.empty_like(x)
        hidden = torch.empty_like(x, dtype=scale.dtype)
        inverse = x.new_empty(images * tokens, dtype=torch.float32)
        kernels.modulate_forward[(images * tokens,)](
            x, update, bias, gate, weight, scale, shift, stream, hidden, inverse, *_rows_of(scale, tokens),
            WIDTH=width, BLOCK=triton.next_power_of_2(width), EPS=EPS, UPDATED=update is not None,
        )  # fmt: skip
        ctx.save_for_backward(stream, inverse, update, bias, gate, weight, scale)
        return stream, hidden

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_stream: Tensor, grad_hidden: Tensor) -> tuple[Tensor | None, ...]:
        stream, inverse, update, bias, gate, weight, scale = ctx.saved_tensors
        images, tokens, width = stream.shape
        stride, shared = _rows_of(scale, tokens)
        each, updated = shared == 1, update is not None
        groups, rows = (1, images * tokens) if each else (images, tokens)
        parts = triton.cdiv(rows, ROWS_A_PROGRAM)
        sums = stream.new_empty(groups, parts, 4, width, dtype=torch.float32)
        grad_condition = scale.new_empty(3, *scale.shape)
        grad_x, grad_update = torch.empty_like(stream), torch.empty_like(update) if updated else None
        kernels.modulate_backward[(groups, parts)](
            grad_hidden.contiguous(), grad_stream.contiguous(), stream, inverse, update, bias, gate, weight, scale,
            grad_x, grad_update, grad_condition, sums, stride, rows,
            WIDTH=width, BLOCK=triton.next_power_of_2(width), ROWS=ROWS_A_PROGRAM, STAGES=STAGES,
            UPDATED=updated, EACH=each, num_warps=8,
        )  # fmt: skip
        if each:
            shares = sums[0, :, 1::2]
        else:
            shares = sums.new_empty(groups, 2, width)
            kernels.modulate_finish[(groups, triton.cdiv(width, COLUMNS))](
                sums, weight, scale, gate, grad_condition, shares, stride, parts,
                WIDTH=width, COLUMNS=COLUMNS, UPDATED=updated,
            )  # fmt: skip
        of_shift, of_scale, of_gate = grad_condition
        of_weight, of_bias = shares.sum(0)
        if not updated:
            return grad_x, None, None, None, of_weight, of_scale, of_shift
        return grad_x, grad_update, of_bias, of_gate, of_weight, of_scale, of_shift


def _rows_of(condition: Tensor, tokens: int) -> tuple[int, int]:
    """Distance in memory between the rows of a condition (B, 1 or N, D), and how many tokens share a row."""
    return condition.stride(0) // condition.shape[1], tokens // condition.shape[1]


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, cosines: Tensor, sines: Tensor, heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        packed = torch.addmm(bias, hidden.flatten(0, 1), weight.t()).view(*hidden.shape[:2], 3, heads, -1)
        query, key, value = parts = packed.permute(2, 0, 3, 1, 4).unbind()
        if packed.dtype == torch.float32:
            # The products of attention take every head in one piece, ...
            query, key, value = (torch.empty_like(part, memory_format=torch.contiguous_format) for part in parts)
            _rotate(parts[2], value, cosines, sines, turn=0)
        else:
            # ... PyTorch's kernels any layout, and they write in that of the query, if it is without gaps.
            query, key = hidden.new_empty(2, *packed.shape[:2], *packed.shape[3:]).transpose(2, 3)
        _rotate(parts[0], query, cosines, sines, turn=1)
        _rotate(parts[1], key, cosines, sines, turn=1)
        ctx.save_for_backward(hidden, weight, cosines, sines)
        return query, key, value

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, cosines, sines = ctx.saved_tensors
        images, heads, tokens, head = grads[0].shape
        packed = hidden.new_empty(images, tokens, 3, heads, head)
        parts = packed.permute(2, 0, 3, 1, 4)
        sums = [
            _rotate(g, part, cosines, sines, turn=t, summed=True)
            for g, part, t in zip(grads, parts, (-1, -1, 0), strict=True)
        ]
        flat = packed.view(images * tokens, -1)
        return (flat @ weight).view_as(hidden), flat.t() @ hidden.flatten(0, 1), torch.cat(sums), None, None, None


def _rotate(
    source: Tensor, target: Tensor, cosines: Tensor, sines: Tensor, *, turn: int, summed: bool = False
) -> Tensor:
    """Turn (B, h, N, d) by ``turn`` times its angles into ``target`` of the same shape; returns sums over B and N."""
    if source.stride(-1) != 1:
        source = source.contiguous()
    images, heads, tokens, head = source.shape
    width = heads * head
    grid = (triton.cdiv(tokens, TILE), triton.cdiv(width, COLUMNS), triton.cdiv(images, IMAGES_A_PROGRAM))
    sums = cosines.new_empty(grid[0] * grid[2] if summed else 0, width)
    kernels.rotate[grid](
        source, target, cosines, sines, sums, images, tokens, *source.stride()[:3], *target.stride()[:3],
        HEAD=head, WIDTH=width, TURN=turn, SUM=summed, IMAGES=IMAGES_A_PROGRAM, TILE=TILE, COLUMNS=COLUMNS,
    )  # fmt: skip
    return sums.sum(0)


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shape, factor = query.shape, query.shape[-1] ** -0.5
        query, key, value = (x.flatten(0, 1) for x in (query, key, value))
        weights = query @ key.transpose(1, 2)
        _over_rows(kernels.softmax_forward, weights, factor)
        ctx.save_for_backward(query, key, value, weights)
        return (weights @ value).view(shape)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        query, key, value, weights = ctx.saved_tensors
        shape, factor, grad = grad.shape, query.shape[-1] ** -0.5, grad.flatten(0, 1)
        grad_value = weights.transpose(1, 2) @ grad
        grad_scores = grad @ value.transpose(1, 2)
        _over_rows(kernels.softmax_backward, grad_scores, weights, factor)
        grads = (grad_scores @ key, grad_scores.transpose(1, 2) @ query, grad_value)
        return tuple(part.view(shape) for part in grads)


def _over_rows(kernel: Any, *arguments: Any) -> None:
    """Run a softmax's kernel over the rows of its first argument, (..., length)."""
    length = arguments[0].shape[-1]
    rows = arguments[0].numel() // length
    kernel[(triton.cdiv(rows, ROWS_OF_SCORES),)](
        *arguments, rows, LENGTH=length, BLOCK=triton.next_power_of_2(length), TILE=ROWS_OF_SCORES
    )


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product: Tensor, bias: Tensor) -> Tensor:
        hidden = product.shape[-1] // 2
        rows = product.numel() // (2 * hidden)
        output = product.new_empty(*product.shape[:-1], hidden)
        kernels.swiglu_forward[(triton.cdiv(rows, TILE), triton.cdiv(hidden, COLUMNS))](
            product, bias, output, rows, HIDDEN=hidden, TILE=TILE, COLUMNS=COLUMNS
        )
        ctx.save_for_backward(product, bias)
        return output

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        product, bias = ctx.saved_tensors
        hidden = product.shape[-1] // 2
        rows, rows_each = product.numel() // (2 * hidden), TILE * TILES_A_PROGRAM
        programs = triton.cdiv(rows, rows_each)
        grad_product, sums = torch.empty_like(product), bias.new_empty(programs, 2 * hidden, dtype=torch.float32)
        kernels.swiglu_backward[(programs, triton.cdiv(hidden, COLUMNS))](
            grad_output.contiguous(), product, bias, grad_product, sums, rows,
            HIDDEN=hidden, ROWS=rows_each, TILE=TILE, COLUMNS=COLUMNS,
        )  # fmt: skip
        return grad_product, sums.sum(0)
