"""The fused kernels of the denoisers' blocks against the reference; `test_fused.py` runs this without a GPU."""

from __future__ import annotations

import pytest
import torch

from dsr.denoiser import fused
from dsr.denoiser.layers import Block, RotaryPositions, run_blocks


@pytest.mark.parametrize("each", [False, True], ids=["condition-per-image", "condition-per-token"])
@pytest.mark.parametrize("by_products", [False, True], ids=["sdpa", "products"])
@pytest.mark.parametrize(("width", "heads", "grid", "registers"), [(48, 3, 3, 4), (40, 2, 6, 0)])
def test_blocks_and_their_gradients_equal_the_reference(
    monkeypatch: pytest.MonkeyPatch,
    each: bool,
    by_products: bool,
    width: int,
    heads: int,
    grid: int,
    registers: int,
) -> None:
    monkeypatch.setattr(fused, "is_tf32", lambda _: by_products)
    torch.manual_seed(0)
    blocks = [Block(width, heads, 4.0) for _ in range(2)]
    for block in blocks:
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    rope, count = RotaryPositions(width // heads, grid, registers), registers + grid**2
    # As an image's tokens leave a convolution: not in the order of memory.
    tokens = torch.randn(2, width, count).transpose(1, 2).requires_grad_()
    condition = torch.randn(2, count if each else 1, width, requires_grad=True)
    inputs = [tokens, condition, *(parameter for block in blocks for parameter in block.parameters())]
    upstream = torch.randn(2, count, width)
    expected = run_blocks(blocks, tokens, condition, rope)
    found = fused.run_blocks(blocks, tokens, condition, rope)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    pairs = zip(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    )
    for gradient, reference in pairs:
        assert (gradient - reference).norm() <= 1e-5 * reference.norm()


def test_a_hidden_width_that_gpus_dislike_is_padded() -> None:
    block = Block(40, 2, 4.0)
    assert block.mlp.w3.in_features % 8
    hidden = torch.randn(1, 5, 40)
    found = fused._mlp(block.mlp, hidden) + block.mlp.w3.bias
    torch.testing.assert_close(found, block.mlp(hidden), rtol=1e-4, atol=1e-5)
