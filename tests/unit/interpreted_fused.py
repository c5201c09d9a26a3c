"""The fused kernels of the denoisers' blocks against the reference; `test_fused.py` runs this without a GPU."""

from __future__ import annotations

import pytest
import torch

from dsr.denoiser import fused
from dsr.denoiser.layers import Block, RotaryPositions, Run, run_blocks


class Case:
    """Two blocks with random weights, random inputs, and a random gradient of the result."""

    def __init__(self, width: int, heads: int, grid: int, registers: int, *, each: bool) -> None:
        torch.manual_seed(0)
        self.blocks = [Block(width, heads, 4.0) for _ in range(2)]
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


def relative_errors(found: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    return [float((one - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)]


EACH = pytest.mark.parametrize("each", [False, True], ids=["condition-per-image", "condition-per-token"])


@EACH
@pytest.mark.parametrize(("width", "heads", "grid", "registers"), [(48, 3, 3, 4), (40, 2, 6, 0)])
def test_blocks_and_their_gradients_equal_the_reference(
    each: bool, width: int, heads: int, grid: int, registers: int
) -> None:
    case = Case(width, heads, grid, registers, each=each)
    expected, found = case.run(run_blocks), case.run(fused.FusedBlocks(turn_in_product=False))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
    assert max(relative_errors(found[1:], expected[1:])) <= 1e-5


@EACH
@pytest.mark.parametrize("in_product", [False, True])
def test_blocks_in_two_bytes_are_about_as_near_as_the_reference(each: bool, in_product: bool) -> None:
    case = Case(48, 3, 3, 4, each=each)
    exact = case.run(run_blocks)
    # float16 instead of bfloat16, which the interpreter does not multiply.
    with torch.autocast("cpu", torch.float16):
        reference, found = case.run(run_blocks), case.run(fused.FusedBlocks(turn_in_product=in_product))
    # The interpreter cuts numbers off where GPUs and PyTorch round them.
    for error, usual in zip(relative_errors(found, exact), relative_errors(reference, exact), strict=True):
        assert error <= 3 * usual < 0.3


def test_a_hidden_width_that_gpus_dislike_is_padded() -> None:
    block = Block(40, 2, 4.0)
    assert block.mlp.w3.in_features % 8
    hidden = torch.randn(1, 5, 40)
    found = fused.FusedBlocks(turn_in_product=False)._mlp(block.mlp, hidden) + block.mlp.w3.bias
    torch.testing.assert_close(found, block.mlp(hidden), rtol=1e-4, atol=1e-5)
