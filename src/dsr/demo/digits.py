"""Handwritten digits in place of ImageNet, and a small pixel decoder that is trained on them.

The digits are 1797 real 8 x 8 images that scikit-learn ships (UCI, CC BY 4.0).
"""

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from dsr.base import tensors
from dsr.base.files import naming, write_json
from dsr.base.randomness import batch_indices, derive, noise, permutation
from dsr.config.encoders import TestTimeRegisters
from dsr.config.specs import AutoencoderSpec
from dsr.data.images import Images, open_images
from dsr.data.loading import pixel_batches
from dsr.demo.encoder import planted_neurons
from dsr.encoder.autoencoder import build_decoder
from dsr.encoder.siglip2 import Siglip2Encoder
from dsr.encoder.ttr import with_registers
from dsr.registers.discovery import merge

VALIDATION_PER_CLASS = 36
"""360 of the 1797 images, the same number of each digit."""

_WHITE = 16
STEPS, BATCH = 300, 64
LEARNING_RATE = 3e-3
NOISE = 0.2
"""Standard deviation of the noise added to latents, whose channels have about unit size: denoisers are not exact."""
_SEED = 0

log = logging.getLogger(__name__)


def write_digits(output: Path) -> None:
    """Write ImageFolders ``train`` (1437 images) and ``validation`` (360), classes 0 to 9, as grey 8 x 8 PNGs.

    ``train.json`` and ``validation.json`` are written last and say how many images and classes there are.
    """
    from sklearn.datasets import load_digits  # takes seconds, and nothing else here needs it

    digits = load_digits()
    pixels = np.round(digits.images * (255 / _WHITE)).astype(np.uint8)
    counts = {"train": 0, "validation": 0}
    for label in range(10):
        members = np.flatnonzero(digits.target == label)
        order = permutation(_SEED, "digits split", label, len(members))
        for place, index in enumerate(members[order]):
            split = "validation" if place < VALIDATION_PER_CLASS else "train"
            folder = output / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            # Not one by one atomic: the records below vouch for all of them, and 1797 fsyncs take longer than the rest.
            with naming(folder / f"{index:04d}.png"):
                Image.fromarray(pixels[index]).save(folder / f"{index:04d}.png")
            counts[split] += 1
    for split, images in counts.items():
        write_json(output / f"{split}.json", {"images": images, "classes": 10})
    log.info("%s: %d images", output, len(pixels))


def train_decoder(spec: AutoencoderSpec, encoder: Path, images: Path, output: Path, *, steps: int = STEPS) -> None:
    """Train a decoder of the frozen encoder's latents, with and without test-time registers, and write it.

    Args:
        spec: Encoder and decoder.
        encoder: Hugging Face folder of the encoder.
        images: Index of the prepared images.
        output: Safetensors file to write.
        steps: Steps of training.
    """
    # Squared errors of standardised pixels; every step takes one of the kinds of latents.
    latents, pixels = training_pairs(spec, Siglip2Encoder.load(encoder, spec.encoder.input_size), open_images(images))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(_SEED, "demo decoder"))
        decoder = build_decoder(spec)
    targets = (pixels - 0.5) / 0.5
    optimizer = torch.optim.AdamW(decoder.parameters(), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        chosen = torch.from_numpy(batch_indices(_SEED, step, BATCH, len(pixels)))
        clean = latents[step % len(latents)][chosen]
        places = range(step * BATCH, (step + 1) * BATCH)
        blurred = clean + NOISE * noise(_SEED, "demo decoder noise", places, clean[0].shape)
        loss = F.mse_loss(decoder(blurred), targets[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            log.info("decoder step %d of %d: loss %.4f", step + 1, steps, loss.item())
    tensors.write(output, decoder.state_dict(), {})


@torch.no_grad()
def training_pairs(
    spec: AutoencoderSpec, encoder: Siglip2Encoder, images: Images
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the latent tokens (images, N, C) without and with each list of register neurons, and pixels in [0, 1]."""
    encoders = [encoder]
    neurons: dict[int, tuple[int, ...]] = {}
    for population in planted_neurons(spec.encoder):
        neurons = merge(neurons, population)
        encoders.append(with_registers(encoder, neurons, TestTimeRegisters()))
    items = [(index, False) for index in range(len(images))]
    batches = list(pixel_batches(images, items, batch=BATCH, device=torch.device("cpu")))
    latents = [torch.cat([variant(variant.preprocess(batch)) for batch in batches]) for variant in encoders]
    return latents, torch.cat(batches)
