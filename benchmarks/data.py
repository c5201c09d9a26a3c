"""Speed of reading, decoding and collating prepared images."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.train import specification
from dsr.config.load import Config
from dsr.data.images import open_images
from dsr.training.batches import Samples, Share


def measure(config: Config, index: Path, *, batch: int, workers: int, batches: int = 60) -> dict[str, Any]:
    """Take batches as the trainer does, to the GPU as floats, with nothing else to do."""
    world = machine.one_gpu()
    images = open_images(index)
    spec = specification(config, "dit-siglip2b-dsr", "bf16", batch, len(images))
    share = Share.of(world, batch, None)
    latents = torch.zeros(batch, 1, 1, 1, device=world.device)
    with contextlib.closing(
        Samples(spec, images, lambda _: latents, world, share, first=0, workers=workers)
    ) as samples:
        for _ in range(2 * workers):
            deque(samples.next_step(), maxlen=0)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(batches):
            deque(samples.next_step(), maxlen=0)
        torch.cuda.synchronize()
        speed = batches * batch / (time.perf_counter() - began)
    size = sum(path.stat().st_size for path in index.parent.glob("*.zip")) / len(images)
    return {
        "stage": "data",
        "batch": batch,
        "workers": workers,
        "cores": os.cpu_count(),
        "kB an image": size / 1000,
        "images/s": speed,
    }
