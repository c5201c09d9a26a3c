"""Make a denoiser fast on the device at hand: fused kernels where they run, compiled layers where they do not."""

from __future__ import annotations

import logging

import torch
from torch import nn

from dsr.compilation import compile_each
from dsr.denoiser.build import Denoiser
from dsr.denoiser.layers import Block, RotaryPositions

log = logging.getLogger(__name__)


def accelerate(model: Denoiser, device: torch.device) -> None:
    """Replace how ``model`` runs its blocks on ``device``; what it computes changes by rounding only.

    On a GPU the blocks run by fused kernels; if Triton is not there or cannot compile them, a warning says so and
    PyTorch's compiler gets the blocks, as it does elsewhere.
    """
    layers: list[nn.Module] = [model.final_layer]
    if device.type == "cuda" and _fused_kernels_run(device):
        # Triton comes with PyTorch's CUDA builds only, so the import must wait until here.
        from dsr.denoiser import fused

        model.run_blocks = fused.run_blocks
    else:
        layers += model.blocks
    compile_each(layers)


def _fused_kernels_run(device: torch.device) -> bool:
    """Pass a few tokens through a small block, forwards and backwards."""
    try:
        from dsr.denoiser import fused

        block, rope = Block(64, 4, 4.0).to(device), RotaryPositions(16, 2).to(device)
        tokens = torch.zeros(2, 4, 64, device=device)
        fused.run_blocks([block, block], tokens, tokens[:, :1], rope).sum().backward()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
    except Exception as error:
        # Triton fails in too many ways to list: no compiler, no Python.h, a cache that cannot be written, an assertion.
        log.warning(
            "No fused kernels (%s: %s); the blocks are compiled by PyTorch instead", type(error).__name__, error
        )
        return False
    return True
