"""The device: what numbers it computes in, process-wide, and copies from it."""

import logging
import os

import torch
from torch import nn

from dsr.base.errors import UserError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What the factors of a precision's matmuls are rounded to; those of the other precisions are stored as float32."""

log = logging.getLogger(__name__)


def set_arithmetic(precision: str, threads: int | None = None, *, deterministic: bool = False) -> None:
    """Set the process-wide arithmetic: CPU threads (None: PyTorch's number), and TF32 on GPUs unless fp32 is asked for.

    A later call replaces all of an earlier one's settings but the environment variable of cuBLAS. For a given number of
    processes and threads, CPUs always compute the same bits. GPUs do so if ``deterministic``; without it, sums of
    PyTorch's own kernels (of attention, where `dsr.accel.flash_attention` does not run) can depend on timing.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"
    if torch.cuda.is_available():
        if deterministic:
            # cuBLAS reads this when it is first used, which is after here.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def usable_precision(precision: str, device: torch.device) -> str:
    """Return ``precision``, or fp32 with a warning: for bf16 on GPUs without it, and for fp16 on CPUs.

    fp32 is slower and rounds less; nothing else changes.

    Raises:
        UserError: if fp16 is asked of a GPU without float16 tensor cores.
    """
    on_gpu = device.type == "cuda"
    if precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        log.warning("%s has no bf16 arithmetic; computing in fp32 instead", torch.cuda.get_device_name(device))
        return "fp32"
    if precision == "fp16" and not on_gpu:
        log.warning("fp16 is arithmetic of GPUs; computing in fp32 on this CPU instead")
        return "fp32"
    if precision == "fp16" and torch.cuda.get_device_capability(device) < (7, 0):
        raise UserError(
            f"precision: fp16 needs float16 tensor cores, which {torch.cuda.get_device_name(device)} has not;"
            " set it to fp32, or use a Volta GPU or a later one"
        )
    return precision


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Let matmuls round their factors as ``precision`` says; for those that PyTorch itself rounds, nothing changes."""
    return torch.autocast(device.type, HALF.get(precision, torch.bfloat16), enabled=precision in HALF)


def round_matmul_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of matmuls and convolutions in ``dtype``, to which autocast would round them every time."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.to(dtype)


class Fetched:
    """A tensor on its way from the device to the host, which does not wait for it."""

    def __init__(self, device: torch.Tensor) -> None:
        self.device = device
        # Without waiting; PyTorch takes pinned memory for this.
        self._host = device.to("cpu", non_blocking=True)
        self._event = torch.cuda.Event() if device.is_cuda else None  # type: ignore[no-untyped-call]
        if self._event is not None:
            self._event.record()  # type: ignore[no-untyped-call]

    def values(self) -> torch.Tensor:
        """Wait for the tensor; callable from any thread."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
