"""Copies from the device that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


class Fetched:
    """A tensor on its way from the device to the host."""

    def __init__(self, device: Tensor) -> None:
        self.device = device
        # Without waiting; PyTorch takes pinned memory for this.
        self._host = device.to("cpu", non_blocking=True)
        self._event = torch.cuda.Event() if device.is_cuda else None  # type: ignore[no-untyped-call]
        if self._event is not None:
            self._event.record()  # type: ignore[no-untyped-call]

    def values(self) -> Tensor:
        """Wait for the tensor; callable from any thread."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
