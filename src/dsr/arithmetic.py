"""What the device at hand can compute in."""

from __future__ import annotations

import logging

import torch
from torch import nn

log = logging.getLogger(__name__)


def usable_precision(precision: str, device: torch.device) -> str:
    """Return ``precision``, or ``fp32`` with a warning where it is bf16 and the GPU has no bf16 arithmetic.

    The fallback is slower and rounds less; nothing else changes.
    """
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        log.warning("%s has no bf16 arithmetic; computing in fp32 instead", torch.cuda.get_device_name(device))
        return "fp32"
    return precision


def round_products(module: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of matrix products in ``dtype``, to which autocast would round them at every evaluation."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.to(dtype)
