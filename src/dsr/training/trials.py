"""What a run tries out at its start: how many images fit into one backward pass, and a float16 encoder."""

import gc
import logging

import torch

from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.config.specs import ModelSpec, TrainSpec
from dsr.data.images import Images
from dsr.data.loading import pixel_batches
from dsr.encoder.autoencoder import Autoencoder
from dsr.training.batches import Share, blank, items
from dsr.training.learner import Learner

log = logging.getLogger(__name__)

TRIED = 32
"""Images that are encoded in both ways."""
LARGEST = 2e-3
"""Largest relative difference of their latents; on random weights float16 and TF32 are each 1e-3 off float32."""


def largest_share(world: World, batch: int, learner: Learner, model: ModelSpec) -> Share:
    """Split ``batch`` into the largest micro-batches that fit: a process's part, or a half, a quarter, ... of it.

    Where there is no GPU, nothing is tried and a process's part is taken at once.

    Raises:
        UserError: if the batch does not divide, or a single image does not fit.
    """
    share = Share.of(world, batch, None)
    if world.device.type != "cuda":
        return share
    while not _fits(world, learner, model, share.micro_batch):
        if share.micro_batch % 2:
            raise memory_error(share)
        share = Share.of(world, batch, share.micro_batch // 2)
    log.info(
        "Micro-batch: %d of a process's %d images at once (the largest that fits into %.0f GiB)",
        share.micro_batch, share.rows, torch.cuda.get_device_properties(world.device).total_memory / 2**30,
    )  # fmt: skip
    return share


def memory_error(share: Share, reason: str = "") -> UserError:
    """Say that ``share`` needs more memory than there is, the next smaller micro-batch, and PyTorch's ``reason``."""
    smaller = next((n for n in range(share.micro_batch - 1, 0, -1) if share.rows % n == 0), None)
    remedy = f"set execution.micro_batch to {smaller}" if smaller else "use GPUs with more memory"
    return UserError(
        f"the GPU's memory is full: {share.micro_batch} images at once do not fit; {remedy}, and run the same command"
        f" again, which goes on from the newest state{reason and f' ({reason})'}"
    )


def _fits(world: World, learner: Learner, model: ModelSpec, images: int) -> bool:
    """Whether a forward and a backward pass fit on every process."""
    failed = False
    try:
        learner.trial_step(blank(model, images, world.device))
    except torch.OutOfMemoryError:
        failed = True
    # Outside of the handler, where nothing refers to the tensors of the failed pass any more.
    gc.collect()
    torch.cuda.empty_cache()
    # Training reports its own peak, not that of what was tried out.
    torch.cuda.reset_peak_memory_stats(world.device)
    return not world.any(failed)


def use_half_if_close(autoencoder: Autoencoder, spec: TrainSpec, images: Images, world: World) -> None:
    """Let the encoder multiply in float16, unless its latents would leave TF32's; then a warning says so.

    The images are those of the run's first step, wherever it goes on, so that every process of every start decides
    alike.
    """
    tried = items(spec, 0, slice(TRIED))
    pixels = next(pixel_batches(images, tried, batch=TRIED, device=world.device))
    exact = autoencoder.raw(pixels)
    autoencoder.in_half = True
    error = float((autoencoder.raw(pixels) - exact).norm() / exact.norm())
    # NaN is not close either.
    autoencoder.in_half = not world.any(not error <= LARGEST)
    if world.is_main and not autoencoder.in_half:
        log.warning("The encoder stays in TF32: float16 would change its latents by %.1e (at most %g)", error, LARGEST)
