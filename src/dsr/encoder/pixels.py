"""Batches of pixels for an encoder, in a fixed order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from dsr.data.images import Images, Item
from dsr.data.loading import Loader


def pixel_batches(
    images: Images, items: Sequence[Item], *, batch: int, device: torch.device, workers: int = 0
) -> Iterator[torch.Tensor]:
    """Yield the images ``items`` asks for, in that order, as float32 pixels (<= batch, 3, H, W) in [0, 1].

    Raises:
        UserError: if an image cannot be read.
    """
    batches = [list(items[start : start + batch]) for start in range(0, len(items), batch)]
    with contextlib.closing(Loader(images, batches, workers=workers, pin_memory=device.type == "cuda")) as loader:
        for pixels, _ in loader:
            yield pixels.to(device, non_blocking=True).float() / 255
