"""What is made in place of downloads: the demo's stand-ins, or for a rehearsal noise and random weights.

The latter have the real shapes and cost what the real ones do, and nothing that is made with them means anything.
"""

import functools
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dsr.artifacts.manifest import EncoderCheck, load
from dsr.base import tensors
from dsr.base.errors import UserError
from dsr.base.files import naming, write_json, write_text
from dsr.base.randomness import derive
from dsr.config.encoders import Data
from dsr.config.specs import AutoencoderSpec, EncoderSpec
from dsr.demo.digits import train_decoder, write_digits
from dsr.demo.encoder import STAND_INS
from dsr.demo.encoder import write_encoder as write_stand_in
from dsr.encoder.autoencoder import build_decoder

HEADS = {768: 12, 1152: 16}
"""Attention heads of the published SigLIP2 encoders, by width; the manifest has the rest of their shapes."""
_SEED = 0

log = logging.getLogger(__name__)


def write_images(spec: Data, output: Path) -> None:
    """Write ImageFolders ``train`` and ``validation``: handwritten digits, or JPEG files a quarter wider than high.

    ``train.json`` and ``validation.json`` are written last and say how many images and classes there are.

    Args:
        spec: Which images; if made, how many of how many classes, and how large.
        output: Folder to write them to.
    """
    if spec.source == "digits":
        write_digits(output)
        return
    write_text(output / "REHEARSAL", "Made images, which no result may be made of.\n")
    counts = {"train": spec.train_images, "validation": spec.validation_images}
    for split, images in counts.items():
        with ThreadPoolExecutor() as pool:
            list(pool.map(functools.partial(_write_image, spec, output / split), range(images)))
    for split, images in counts.items():
        write_json(output / f"{split}.json", {"images": images, "classes": spec.classes})
    log.info("%s: made %s images", output, " and ".join(map(str, counts.values())))


def _write_image(spec: Data, folder: Path, number: int) -> None:
    """Write noise with as much power in every octave, which compresses about as photographs do."""
    generator = np.random.default_rng(derive(_SEED, f"made image {folder.name} {number}"))
    width, height = spec.image_size * 5 // 4, spec.image_size
    pixels = np.full((height, width, 3), 128.0)
    for side in (4, 8, 16, 32, 64):
        octave = Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
        pixels += 0.4 * (np.asarray(octave.resize((width, height), Image.Resampling.BICUBIC)) - 128.0)
    path = folder / f"{number % spec.classes:04d}" / f"{number:06d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    # The records of the splits vouch for all of them.
    with naming(path):
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)


def write_encoder(spec: EncoderSpec, output: Path, name: str | None = None) -> None:
    """Write one of the demo's encoders, or for a rehearsal one of the shape in the manifest, as the hub has it.

    Args:
        spec: The encoder.
        output: Hugging Face folder to write.
        name: In a rehearsal, its id in the manifest.

    Raises:
        UserError: if the demo has none of this name, or its shape is not known.
    """
    entry = spec.encoder
    if name is None or entry.hub in STAND_INS:
        write_stand_in(entry, output)
        return
    artifact = load().artifacts.get(name)
    check = artifact.check if artifact else None
    if not isinstance(check, EncoderCheck) or check.model_type != "siglip" or check.width not in HEADS:
        raise UserError(f"encoders.{name}: a rehearsal makes SigLIP2's encoders only; fetch it (snakemake downloads)")
    from transformers import SiglipVisionConfig, SiglipVisionModel  # takes seconds, and nothing else here needs it

    shape = SiglipVisionConfig(
        hidden_size=check.width,
        intermediate_size=check.intermediate_size,
        num_hidden_layers=check.depth,
        num_attention_heads=HEADS[check.width],
        image_size=entry.input_size,
        patch_size=entry.patch_size,
        vision_use_head=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(_SEED, "made encoder"))
        SiglipVisionModel(shape).save_pretrained(output)
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
    write_json(output / "preprocessor_config.json", {"image_processor_type": "SiglipImageProcessor", **processor})
    log.info("%s: made, with random weights", output)


def write_decoder(spec: AutoencoderSpec, output: Path, encoder: Path | None = None, images: Path | None = None) -> None:
    """Write a decoder that is trained on images, or without them one with its initial weights.

    Args:
        spec: Encoder and decoder.
        output: Safetensors file to write.
        encoder: Hugging Face folder of the encoder.
        images: Index of the prepared images.
    """
    if encoder and images:
        train_decoder(spec, encoder, images, output)
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(_SEED, "made decoder"))
        tensors.write(output, build_decoder(spec).state_dict(), {})
    log.info("%s: made, with random weights", output)
