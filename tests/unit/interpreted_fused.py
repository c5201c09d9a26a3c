"""The fused kernels against the reference, in Triton's interpreter; `test_fused.py` runs this without a GPU."""

from __future__ import annotations

import pytest
import torch

from dsr.accel import flash_attention, fused
from dsr.accel.device import round_matmul_weights
from dsr.accel.fused import FrozenBlocks
from dsr.denoiser.layers import Block, RotaryPositions, Run, run_blocks
from dsr.encoder.blocks import attend


class Case:
    """Blocks with random weights, random inputs, and a random gradient of the result."""

    def __init__(self, width: int, heads: int, grid: int, registers: int, *, each: bool, depth: int) -> None:
        torch.manual_seed(0)
        self.blocks = [Block(width, heads, 4.0) for _ in range(depth)]
        for block in self.blocks:
            for parameter in block.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        self.rope, count = RotaryPositions(width // heads, grid, registers), registers + grid**2
        # As an image's tokens leave a convolution: not in the order of memory.
        self.tokens = torch.randn(2, width, count).transpose(1, 2).requires_grad_()
        self.condition = torch.randn(2, count if each else 1, width, requires_grad=True)
        self.upstream = torch.randn(2, count, width)

    def run(self, way: Run) -> list[torch.Tensor]:
        """Return the result and the gradients of tokens, condition and parameters."""
        inputs = [self.tokens, self.condition, *(p for block in self.blocks for p in block.parameters())]
        result = way(self.blocks, self.tokens, self.condition, self.rope)
        return [result.detach(), *torch.autograd.grad(result, inputs, self.upstream)]

    @torch.inference_mode()
    def predict(self, way: Run) -> torch.Tensor:
        """Return the result alone."""
        return way(self.blocks, self.tokens, self.condition, self.rope)


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


# Both have more rows of a condition, or of all, than a program takes.
@pytest.mark.parametrize(("each", "width", "heads", "grid", "registers"), [(False, 32, 2, 8, 1), (True, 40, 2, 6, 0)])
def test_blocks_and_their_gradients_equal_the_reference(
    each: bool, width: int, heads: int, grid: int, registers: int
) -> None:
    case = Case(width, heads, grid, registers, each=each, depth=1)
    expected, found = case.run(run_blocks), case.run(fused.FusedBlocks(fuse_rope=False))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
    assert max(map(relative_error, found[1:], expected[1:])) <= 1e-5


@pytest.mark.parametrize(("each", "fuse_rope"), [(False, True), (True, False)])
def test_blocks_in_two_bytes_are_about_as_near_as_the_reference(each: bool, fuse_rope: bool) -> None:
    case = Case(48, 3, 3, 4, each=each, depth=1)
    exact = case.run(run_blocks)
    # float16 instead of bfloat16, which the interpreter does not multiply.
    with torch.autocast("cpu", torch.float16):
        reference, found = case.run(run_blocks), case.run(fused.FusedBlocks(fuse_rope=fuse_rope))
    # The interpreter cuts numbers off where GPUs and PyTorch round them.
    for ours, usual, truth in zip(found, reference, exact, strict=True):
        assert relative_error(ours, truth) <= 3 * relative_error(usual, truth) < 0.3


@pytest.mark.parametrize(
    ("each", "stream", "grid", "depth"),
    [(False, torch.float32, 3, 2), (True, torch.float16, 8, 1)],  # the second has more than one tile of rows
)
def test_frozen_blocks_equal_the_reference_up_to_rounding(
    each: bool, stream: torch.dtype, grid: int, depth: int
) -> None:
    # A width whose MLP must be padded, and has more than one tile of columns.
    case = Case(80, 2, grid, 4, each=each, depth=depth)
    assert case.blocks[0].mlp.w3.in_features % 8
    case.tokens = case.tokens.detach().to(stream)
    exact = case.predict(run_blocks)
    for block in case.blocks:
        round_matmul_weights(block, torch.float16)
    with torch.autocast("cpu", torch.float16):
        assert relative_error(case.predict(FrozenBlocks(case.blocks)), exact) < 3e-3


# In float32 a last token that is left alone goes another way if there is no backward pass.
FLOAT = [(37, 2, 72), (20, 1, 12), (129, 1, 20), (257, 1, 16), (66, 1, 128)]
HALF = [(37, 2, 72), (64, 1, 16), (129, 1, 20), (66, 1, 128)]


@pytest.mark.parametrize(
    ("tokens", "heads", "head", "dtype"),
    [(*one, torch.float32) for one in FLOAT] + [(*one, torch.float16) for one in HALF],
    ids=str,
)
def test_attention_and_its_gradients_equal_pytorchs(tokens: int, heads: int, head: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    images = 1 if tokens > 128 else 2
    packed = torch.randn(images, tokens, 3, heads, head).to(dtype)
    upstream = torch.randn(images, tokens, heads, head).to(dtype)
    angles = torch.randn(tokens, head // 2)
    cosines, sines = angles.cos(), angles.sin()
    exact = packed.double().requires_grad_()
    expected = attend(exact)
    (gradient,) = torch.autograd.grad(expected, exact, upstream.double())

    attended, lse = flash_attention.forward(packed, keep=True)
    found, sums = flash_attention.backward(packed, attended, lse, upstream, cosines, sines)

    # What comes back is the gradient before RoPE.
    rotated = gradient.unflatten(-1, (-1, 2)).clone()
    even, odd = rotated[:, :, :2, ..., 0].clone(), rotated[:, :, :2, ..., 1].clone()
    cosines, sines = cosines[:, None, None], sines[:, None, None]
    rotated[:, :, :2, ..., 0], rotated[:, :, :2, ..., 1] = even * cosines + odd * sines, odd * cosines - even * sines
    bound = 1e-6 if dtype == torch.float32 else 2e-3
    assert relative_error(attended.double(), expected) < bound
    assert relative_error(found.double(), rotated.flatten(-2)) < bound
    assert relative_error(sums.double(), rotated.flatten(-2).sum((0, 1)).flatten()) < 5 * bound
    frozen = flash_attention.forward(packed, keep=False)[0]
    assert torch.equal(flash_attention.attend(packed), frozen)
    assert relative_error(frozen.double(), expected) < bound
    same = tokens - 1 if dtype == torch.float32 and tokens % 128 == 1 else tokens
    assert torch.equal(attended[:, :same], frozen[:, :same])


def test_pytorchs_compiler_takes_the_attention_as_one_operation() -> None:
    packed = torch.randn(2, 17, 3, 2, 16)
    compiled = torch.compile(lambda x: 2 * flash_attention.attend(x), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(packed), 2 * flash_attention.attend(packed))


def test_attention_survives_scores_beyond_what_exponentials_reach() -> None:
    packed = 40 * torch.randn(1, 20, 3, 1, 16, generator=torch.Generator().manual_seed(0))
    attended, lse = flash_attention.forward(packed, keep=True)
    found, _ = flash_attention.backward(packed, attended, lse, torch.ones_like(attended), *torch.ones(2, 20, 8))
    torch.testing.assert_close(attended, attend(packed))
    assert found.isfinite().all()
