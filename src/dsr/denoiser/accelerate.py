"""Make a denoiser fast on the device at hand: fused kernels where they run, compiled layers where they do not."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

from dsr.compilation import compile_each
from dsr.denoiser.build import Denoiser
from dsr.denoiser.layers import Block, Run, run_blocks

log = logging.getLogger(__name__)

IMAGES = 16
"""Images that a way to run blocks is tried with; kernels are made for multiples of 16 and serve all of them."""


def accelerate(model: Denoiser, device: torch.device, precision: str) -> None:
    """Replace how ``model``, which is on ``device``, runs its blocks; what it computes changes by rounding only.

    On a GPU the blocks run by fused kernels, unless ``precision`` is fp32, which these do not have. If Triton is not
    there or cannot compile them, a warning says so and PyTorch's compiler gets the blocks, as it does elsewhere.
    """
    if device.type == "cuda" and precision != "fp32" and _fuse(model, device, precision):
        compile_each([model.final_layer])
    else:
        layers: list[nn.Module] = [model.final_layer, *model.blocks]
        compile_each(layers)


def _fuse(model: Denoiser, device: torch.device, precision: str) -> bool:
    """Let fused kernels run the blocks: the first way that works."""
    try:
        # Triton comes with PyTorch's CUDA builds only, so the import must wait until here.
        from dsr.denoiser import frozen, fused, products

        in_products = precision != "tf32" and products.runs_on(device)
        ways: list[Run] = []
        if in_products and not any(parameter.requires_grad for parameter in model.parameters()):
            blocks = cast(Iterable[Block], model.blocks)
            ways.append(frozen.FrozenBlocks(blocks, eight_bits=precision == "fp8"))
        elif in_products:
            ways.append(fused.FusedBlocks(turn_in_product=True))
        ways.append(fused.FusedBlocks(turn_in_product=False))
    except ImportError as error:
        log.warning("No fused kernels (%s); the blocks are compiled by PyTorch instead", error)
        return False
    for way in ways:
        model.run_blocks = way
        try:
            _rehearse(model, device, precision)
        except Exception as error:
            # Triton fails in too many ways to list: no compiler, no Python.h, a cache that cannot be written, too
            # little shared memory, an assertion.
            log.warning("%s do not run here (%s: %s)", type(way).__name__, type(error).__name__, error)
        else:
            return True
    model.run_blocks = run_blocks
    log.warning("No fused kernels; the blocks are compiled by PyTorch instead")
    return False


def _rehearse(model: Denoiser, device: torch.device, precision: str) -> None:
    """Pass a few images through, forwards and, if the model is trained, backwards."""
    x = torch.zeros(IMAGES, model.in_channels, model.input_size, model.input_size, device=device)
    t, y = x.new_zeros(IMAGES), torch.zeros(IMAGES, dtype=torch.int64, device=device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=precision in ("bf16", "fp8")),
        torch.set_grad_enabled(bool(trained)),
    ):
        result = model(x, t, y)
    if trained:
        torch.autograd.grad(result.float().sum(), trained, allow_unused=True)
    torch.cuda.synchronize(device)
