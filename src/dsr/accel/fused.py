"""The blocks of a denoiser on GPUs: the matmuls of the reference, `dsr.denoiser.layers`, and fused kernels between.

Between two matmuls a block only moves memory. Written one operation at a time that takes as long as the matmuls; here
every step is one kernel forwards and one backwards, or part of a matmul. The bias of a matmul is added by the kernel
that reads its result, because the same kernel's backward pass can then sum the bias's gradient without reading anything
again. For the same reason a block leaves its last update to the kernel that begins the next block.
"""

# PyTorch's `Function.apply` has no types.
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsr.accel import flash_attention, layer_kernels
from dsr.accel.matmul import matmul_rope, matmul_swiglu
from dsr.denoiser.layers import EPS, Attention, Block, RotaryPositions, SwiGLU

ROWS_A_PROGRAM, STAGES = 64, 2
"""Tokens that a program of a modulation's backward pass sums over, and how many of them it holds at once."""
CHANNELS_A_WARP = 512
"""Channels of a token that a warp of a modulation's kernels works on."""
TILE, COLUMNS = 16, 128
"""Tokens and channels that a program of the other kernels works on at once."""
IMAGES_A_PROGRAM, TILES_A_PROGRAM = 16, 16
"""Times that a program repeats this: when rotating queries and keys, and in SwiGLU's backward pass."""
SQUARE = 64
"""Rows and columns that a program transposes."""


Angles = tuple[Tensor, Tensor]
"""Cosines and sines by which RoPE rotates pairs of channels, (N, d / 2) fp32 each."""


class FusedBlocks:
    """Runs blocks in place of `layers.run_blocks`; they may be trained.

    Args:
        fuse_rope: let the matmul that makes queries and keys rotate them, unless it is in fp32.
    """

    def __init__(self, *, fuse_rope: bool) -> None:
        self._fuse_rope = fuse_rope

    def __call__(self, blocks: Iterable[Block], x: Tensor, condition: Tensor, rope: RotaryPositions) -> Tensor:
        """Pass tokens (B, N, D) through ``blocks`` one after the other; condition (B, 1 or N, D)."""
        pending: tuple[Any, Any, Any] = (None, None, None)  # update, bias, gate
        # The tables have every angle twice.
        x, angles = x.contiguous(), (rope.freqs_cos[:, ::2].contiguous(), rope.freqs_sin[:, ::2].contiguous())
        for block in blocks:
            shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(condition).chunk(6, dim=-1)
            x, hidden = _Modulated.apply(x, *pending, block.norm1.weight, scale1, shift1)
            pending = self._attention(block.attn, hidden, angles), block.attn.proj.bias, gate1
            x, hidden = _Modulated.apply(x, *pending, block.norm2.weight, scale2, shift2)
            pending = self._mlp(block.mlp, hidden), block.mlp.w3.bias, gate2
        update, bias, gate = pending
        return x if update is None else x + gate * (update + bias)

    def _attention(self, layer: Attention, hidden: Tensor, angles: Angles) -> Tensor:
        """Attention without the bias of its last matmul."""
        fuse_rope = self._fuse_rope and hidden.dtype != torch.float32
        weight = layer.qkv.weight.to(hidden.dtype)
        attended = _SelfAttention.apply(hidden, weight, layer.qkv.bias, *angles, layer.heads, fuse_rope)
        return linear(attended, layer.proj.weight)

    def _mlp(self, layer: SwiGLU, hidden: Tensor) -> Tensor:
        """Gated MLP without the bias of its last matmul."""
        w12, bias, w3 = padded(layer)
        return linear(_SwiGLU.apply(linear(hidden, w12.flatten(0, 1)), bias.flatten()), w3)


def padded(layer: SwiGLU) -> tuple[Tensor, Tensor, Tensor]:
    """Return first weight (2, M, D) and bias (2, M), gate before value, and last weight (D, M), M a multiple of 8.

    GPUs multiply matrices slowly whose rows do not begin at multiples of 16 bytes.
    """
    width, missing = layer.w12.in_features, -layer.w3.in_features % 8
    w12, bias, w3 = layer.w12.weight.view(2, -1, width), layer.w12.bias.view(2, -1), layer.w3.weight
    if missing:
        w12, bias, w3 = F.pad(w12, (0, 0, 0, missing)), F.pad(bias, (0, missing)), F.pad(w3, (0, missing))
    return w12, bias, w3


class FrozenBlocks(FusedBlocks):
    """Runs blocks whose weights are float16 or bf16 and stay what they are, with matmuls that do more.

    Args:
        blocks: all that will be run.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        super().__init__(fuse_rope=True)
        blocks = list(blocks)
        self._biases = {block.attn: block.attn.qkv.bias.float() for block in blocks}
        self._mlps = {block.mlp: _interleaved(block.mlp) for block in blocks}

    def _attention(self, layer: Attention, hidden: Tensor, angles: Angles) -> Tensor:
        packed = matmul_rope(hidden, layer.qkv.weight, self._biases[layer], *angles, layer.heads)
        return F.linear(flash_attention.forward(packed, keep=False)[0].flatten(2), layer.proj.weight)

    def _mlp(self, layer: SwiGLU, hidden: Tensor) -> Tensor:
        first, bias, last = self._mlps[layer]
        return F.linear(matmul_swiglu(hidden, first, bias), last)


def _interleaved(layer: SwiGLU) -> tuple[Tensor, Tensor, Tensor]:
    """First weight (2 M, D) and bias (2 M,) with gate and value of a channel side by side, and last weight (D, M)."""
    first, bias, last = padded(layer)
    return first.transpose(0, 1).flatten(0, 1).contiguous(), bias.t().flatten().float(), last.contiguous()


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Tokens (B, N, D) times a weight (M, D), in the dtype of the tokens: (B, N, M)."""
    result: Tensor = _Linear.apply(x, weight.to(x.dtype))
    return result


class _Modulated(torch.autograd.Function):
    """Add gate (update + bias) to the stream x, if there is an update, then normalise and modulate.

    Gives the stream (B, N, D), and what the next matmul reads, in the dtype of the modulation.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, update: Tensor | None, bias: Tensor | None, gate: Tensor | None, weight: Tensor,
        scale: Tensor, shift: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        images, tokens, width = x.shape
        stream = x if update is None else torch.empty_like(x)
        hidden, inverse = torch.empty_like(x, dtype=scale.dtype), x.new_empty(images * tokens, dtype=torch.float32)
        layer_kernels.modulate_forward[(images * tokens,)](
            x, update, bias, gate, weight, scale, shift, stream, hidden, inverse, *_rows_of(scale, tokens),
            **_row_tiles(width), EPS=EPS, UPDATED=update is not None,
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
        layer_kernels.modulate_backward[(groups, parts)](
            grad_hidden.contiguous(), grad_stream.contiguous(), stream, inverse, update, bias, gate, weight, scale,
            grad_x, grad_update, grad_condition, sums, stride, rows,
            **_row_tiles(width), ROWS=ROWS_A_PROGRAM, STAGES=STAGES, UPDATED=updated, EACH=each,
        )  # fmt: skip
        if each:
            shares = sums[0, :, 1::2]
        else:
            shares = sums.new_empty(groups, 2, width)
            layer_kernels.modulate_finish[(groups, triton.cdiv(width, COLUMNS))](
                sums, weight, scale, gate, grad_condition, shares, stride, parts,
                WIDTH=width, COLUMNS=COLUMNS, UPDATED=updated,
            )  # fmt: skip
        grad_shift, grad_scale, grad_gate = grad_condition
        grad_weight, grad_bias = shares.sum(0)
        if not updated:
            return grad_x, None, None, None, grad_weight, grad_scale, grad_shift
        return grad_x, grad_update, grad_bias, grad_gate, grad_weight, grad_scale, grad_shift


def _row_tiles(width: int) -> dict[str, int]:
    """Return the two tiles that hold a row, and the warps that share it."""
    main = triton.next_power_of_2(width) // 2
    rest = triton.next_power_of_2(width - main)
    warps = min(8, max(2, (main + rest) // CHANNELS_A_WARP))
    return {"WIDTH": width, "MAIN": main, "REST": rest, "num_warps": 1 << (warps.bit_length() - 1)}


def _rows_of(condition: Tensor, tokens: int) -> tuple[int, int]:
    """Distance in memory between the rows of a condition (B, 1 or N, D), and how many tokens share a row."""
    return condition.stride(0) // condition.shape[1], tokens // condition.shape[1]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return _matmul_gradients(grad.contiguous(), x, weight)


def _matmul_gradients(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x (B, N, D) and weight (M, D) from that of their matmul, (B, N, M)."""
    rows, inputs = grad.flatten(0, 1), x.flatten(0, 1)
    if grad.dtype != torch.float32:
        return (rows @ weight).view_as(x), rows.t() @ inputs
    # TF32 units sum along rows of both factors only, and other layouts cost up to half the speed. Transposing the
    # smaller factor first takes less than it saves.
    if weight.shape[0] > weight.shape[1]:
        return (rows @ weight).view_as(x), rows.t() @ transposed(inputs).t()
    return F.linear(rows, transposed(weight)).view_as(x), transposed(rows) @ inputs


def transposed(matrix: Tensor) -> Tensor:
    """Return a transposed copy of a contiguous (m, n): (n, m)."""
    rows, columns = matrix.shape
    result = matrix.new_empty(columns, rows)
    layer_kernels.transpose[(triton.cdiv(rows, SQUARE), triton.cdiv(columns, SQUARE))](
        matrix, result, rows, columns, TILE=SQUARE
    )
    return result


class _SelfAttention(torch.autograd.Function):
    """Project tokens (B, N, D) to queries, keys and values, rotate the first two, and attend: (B, N, D)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, cosines: Tensor, sines: Tensor, heads: int,
        fuse_rope: bool,
    ) -> Tensor:  # fmt: skip
        if fuse_rope:
            packed = matmul_rope(hidden, weight, bias.float(), cosines, sines, heads)
        else:
            packed = F.linear(hidden, weight, bias.to(hidden.dtype)).view(*hidden.shape[:2], 3, heads, -1)
            _rotate(packed, cosines, sines)
        attended, lse = flash_attention.forward(packed, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(hidden, weight, packed, attended, lse, cosines, sines)
        return attended.flatten(2)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, packed, attended, lse, cosines, sines = ctx.saved_tensors
        grad_packed, grad_bias = flash_attention.backward(packed, attended, lse, grad.contiguous(), cosines, sines)
        grad_hidden, grad_weight = _matmul_gradients(grad_packed.flatten(2), hidden, weight)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _rotate(packed: Tensor, cosines: Tensor, sines: Tensor) -> None:
    """Rotate queries and keys of (B, N, 3, h, d) in place."""
    images, tokens, _, heads, head = packed.shape
    width = 2 * heads * head
    grid = (triton.cdiv(tokens, TILE), triton.cdiv(width, COLUMNS), triton.cdiv(images, IMAGES_A_PROGRAM))
    layer_kernels.rotate[grid](
        packed, cosines, sines, images, tokens,
        STRIDE=3 * heads * head, HEAD=head, WIDTH=width, IMAGES=IMAGES_A_PROGRAM, TILE=TILE, COLUMNS=COLUMNS,
    )  # fmt: skip


class _SwiGLU(torch.autograd.Function):
    """silu(gate) value of a matmul's result (..., 2 M), gate before value, and its bias (2 M,): (..., M)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        hidden = x.shape[-1] // 2
        rows = x.numel() // (2 * hidden)
        output = x.new_empty(*x.shape[:-1], hidden)
        layer_kernels.swiglu_forward[(triton.cdiv(rows, TILE), triton.cdiv(hidden, COLUMNS))](
            x, bias, output, rows, HIDDEN=hidden, TILE=TILE, COLUMNS=COLUMNS
        )
        ctx.save_for_backward(x, bias)
        return output

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        x, bias = ctx.saved_tensors
        hidden = x.shape[-1] // 2
        rows, rows_each = x.numel() // (2 * hidden), TILE * TILES_A_PROGRAM
        programs = triton.cdiv(rows, rows_each)
        grad_x, sums = torch.empty_like(x), bias.new_empty(programs, 2 * hidden, dtype=torch.float32)
        layer_kernels.swiglu_backward[(programs, triton.cdiv(hidden, COLUMNS))](
            grad_output.contiguous(), x, bias, grad_x, sums, rows,
            HIDDEN=hidden, ROWS=rows_each, TILE=TILE, COLUMNS=COLUMNS,
        )  # fmt: skip
        return grad_x, sums.sum(0)
