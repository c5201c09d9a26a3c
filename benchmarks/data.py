"""Speed of reading, decoding and collating prepared images: `PYTHONPATH=src python -m benchmarks.data`."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch

from benchmarks import inputs, machine
from benchmarks.train import specification
from dsr.data.images import PreparedImages
from dsr.training.batches import Samples, Share


def measure(index: Path, *, batch: int, workers: int, batches: int = 60) -> dict[str, Any]:
    """Take batches as the trainer does, to the GPU as floats, with nothing else to do."""
    world = machine.one_gpu()
    images = PreparedImages(index)
    spec = specification("dit-siglip2b-dsr", "bf16", batch, len(images))
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


def main() -> None:
    """Measure one number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--batch", type=int, default=128, help="images a batch")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="data-loading workers")
    machine.add_output(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = inputs.prepared_images(Path(folder), 4096)
        machine.report([measure(index, batch=options.batch, workers=options.workers)], options.json)


if __name__ == "__main__":
    main()
