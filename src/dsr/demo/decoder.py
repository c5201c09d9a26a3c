"""Train the demo's small pixel decoder, in place of the published one, for a fixed number of steps."""

import logging
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from dsr.base.files import atomic
from dsr.base.randomness import derive, noise
from dsr.config.encoders import TestTimeRegisters
from dsr.config.specs import AutoencoderSpec
from dsr.data.images import Images, open_images
from dsr.data.loading import pixel_batches
from dsr.data.order import batch_indices
from dsr.demo.encoder import planted_neurons
from dsr.encoder.autoencoder import ViTDecoder, build_decoder
from dsr.encoder.discovery import merge
from dsr.encoder.families import Siglip2Encoder
from dsr.encoder.ttr import with_registers

STEPS, BATCH = 300, 64
LEARNING_RATE = 3e-3
NOISE = 0.2
"""Standard deviation of the noise added to latents, whose channels have about unit size: denoisers are not exact."""
_SEED = 0

logger = logging.getLogger(__name__)


def write_decoder(spec: AutoencoderSpec, encoder: Path, images: Path, output: Path, *, steps: int = STEPS) -> None:
    """Train a decoder of the frozen encoder's latents, with and without test-time registers, and write it.

    Args:
        spec: Encoder and decoder.
        encoder: Hugging Face folder of the encoder.
        images: Index of the prepared images.
        output: Safetensors file to write.
        steps: Steps of training.
    """
    latents, pixels = training_pairs(spec, Siglip2Encoder.load(encoder, spec.encoder.input_size), open_images(images))
    with atomic(output) as temporary:
        save_file(train(spec, latents, pixels, steps).state_dict(), temporary)


@torch.no_grad()
def training_pairs(
    spec: AutoencoderSpec, encoder: Siglip2Encoder, images: Images
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the latent tokens (images, N, C) without and with each list of register neurons, and pixels in [0, 1]."""
    options = spec.ttr_options or TestTimeRegisters()
    encoders = [encoder]
    neurons: dict[int, tuple[int, ...]] = {}
    for population in planted_neurons(spec.encoder):
        neurons = merge(neurons, population)
        encoders.append(with_registers(encoder, neurons, options))
    items = [(index, False) for index in range(len(images))]
    batches = list(pixel_batches(images, items, batch=BATCH, device=torch.device("cpu")))
    latents = [torch.cat([variant(variant.preprocess(batch)) for batch in batches]) for variant in encoders]
    return latents, torch.cat(batches)


def train(spec: AutoencoderSpec, latents: list[torch.Tensor], pixels: torch.Tensor, steps: int) -> ViTDecoder:
    """Fit a decoder with the squared error of standardised pixels; every step takes one of the kinds of latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(_SEED, "demo decoder"))
        decoder = build_decoder(spec)
    targets = (pixels - 0.5) / 0.5
    optimizer = torch.optim.AdamW(decoder.parameters(), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        chosen = torch.from_numpy(batch_indices(_SEED, step, BATCH, len(pixels)))
        clean = latents[step % len(latents)][chosen]
        blurred = clean + NOISE * noise(
            _SEED, "demo decoder noise", range(step * BATCH, (step + 1) * BATCH), clean[0].shape
        )
        loss = F.mse_loss(decoder(blurred), targets[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            logger.info("decoder step %d of %d: loss %.4f", step + 1, steps, loss.item())
    return decoder
