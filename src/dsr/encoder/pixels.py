"""Batches of pixels for an encoder, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader

from dsr.data.images import Images, Item


def pixel_batches(
    images: Images, items: Sequence[Item], *, batch: int, device: torch.device, workers: int = 0
) -> Iterator[torch.Tensor]:
    """Yield the images ``items`` asks for, in that order, as float32 pixels (<= batch, 3, H, W) in [0, 1]."""
    loader = DataLoader(
        images,
        sampler=items,
        batch_size=batch,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    for pixels, _ in loader:
        yield pixels.to(device, non_blocking=True).float() / 255
