"""Make a frozen encoder fast on the device at hand: compiled, and on GPUs with an attention of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from dsr.accel.arithmetic import round_matmul_weights
from dsr.accel.compilation import compiled
from dsr.encoder.attention import Attention
from dsr.encoder.autoencoder import Autoencoder

log = logging.getLogger(__name__)


def accelerated_encode(autoencoder: Autoencoder, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a fast ``autoencoder.encode``, which is on ``device``; what it computes changes by rounding only.

    Set arithmetic and call :meth:`Autoencoder.use_half` before: the attention has TF32 and float16, but no fp32.
    """
    if autoencoder.in_half and autoencoder.encoder is not None:
        round_matmul_weights(autoencoder.encoder, torch.float16)
    layers = [layer for layer in autoencoder.modules() if isinstance(layer, Attention)]
    if device.type == "cuda" and (autoencoder.in_half or torch.backends.cuda.matmul.allow_tf32):
        _replace_attention(layers, torch.float16 if autoencoder.in_half else torch.float32, device)
    return compiled(autoencoder.encode)


def _replace_attention(layers: list[Attention], dtype: torch.dtype, device: torch.device) -> None:
    """Let the attention of `dsr.accel.flash_attention` run, if it does with the heads of these layers."""
    try:
        # Triton comes with PyTorch's CUDA builds only, so the import must wait until here.
        from dsr.accel.flash_attention import attend, runs_on

        if not runs_on(device):
            return
        for heads, width in {(layer.num_heads, layer.q_proj.out_features) for layer in layers}:
            attend(torch.zeros(1, 257, 3, heads, width // heads, dtype=dtype, device=device))
        torch.cuda.synchronize(device)
    except Exception as error:
        # Triton fails in too many ways to list: no compiler, no Python.h, too little shared memory, an assertion.
        log.warning("No fused attention (%s: %s); PyTorch's is used instead", type(error).__name__, error)
        return
    for layer in layers:
        layer.attend = attend
