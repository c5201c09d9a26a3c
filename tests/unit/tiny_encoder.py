"""A SigLIP2 vision tower small enough for tests, what describes it, and images for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from dsr.base.files import write_json
from dsr.config.encoders import Decoder, Encoder, TestTimeRegisters
from dsr.config.specs import AutoencoderSpec
from dsr.data.prepare import write_index, write_shard
from dsr.encoder.autoencoder import build_decoder
from dsr.encoder.statistics import LatentStatistics
from dsr.encoder.ttr import NeuronList

WIDTH, LAYERS, HIDDEN, SIZE = 32, 4, 48, 64


def write_folder(folder: Path, **changes: int) -> Path:
    """Write a random vision tower, of other sizes if need be, with a text tower beside it."""
    from transformers import SiglipConfig, SiglipModel  # takes seconds, and other processes need no files

    torch.manual_seed(0)
    vision = {"hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    vision |= {"image_size": SIZE, "patch_size": 16, **changes}
    text = {**vision, "num_hidden_layers": 1, "vocab_size": 50, "max_position_embeddings": 8}
    SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    return folder


def write_parts(folder: Path, spec: AutoencoderSpec, layers: dict[int, tuple[int, ...]]) -> dict[str, Path]:
    """Write neurons, random statistics and a random decoder to have around an encoder."""
    names = {"neurons": "neurons.json", "statistics": "statistics.safetensors", "decoder": "decoder.safetensors"}
    files = {name: folder / file for name, file in names.items()}
    neurons = NeuronList(encoder="tiny", layers=layers, source="test")
    write_json(files["neurons"], neurons.model_dump(mode="json"))
    torch.manual_seed(0)
    statistics = LatentStatistics(spec.latent_shape)
    statistics.update(torch.randn(16, *spec.latent_shape))
    statistics.save(files["statistics"])
    save_file(build_decoder(spec).state_dict(), files["decoder"])
    return files


def write_images(folder: Path, count: int, classes: int = 2, size: int = SIZE) -> Path:
    """Write random images, and prepare them; returns their index."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / "raw" / f"class-{number % classes}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    write_shard(folder / "raw", size, 0, 1, folder / "shard-00000.zip")
    write_index([folder / "shard-00000.zip"], folder / "index.npz")
    return folder / "index.npz"


def entry(**changes: Any) -> Encoder:
    """Return the configuration of the tiny encoder, or of one that differs from it."""
    sizes = {"input_size": SIZE, "patch_size": 16, "width": WIDTH}
    kinds = {"family": "siglip2", "hub": "tiny", "revision": "main", "neurons": "discovered", "statistics": "computed"}
    return Encoder.model_validate({**sizes, **kinds, **changes})


def spec(ttr: TestTimeRegisters | None = None, *, image_size: int = SIZE) -> AutoencoderSpec:
    """Return the specification of an autoencoder around the tiny encoder."""
    return AutoencoderSpec(
        encoder=entry(),
        ttr_options=ttr,
        decoder=Decoder(hidden_size=16, depth=2, num_heads=2, intermediate_size=24),
        image_size=image_size,
    )


def pixels(count: int, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    """Random pixels (count, 3, size, size) in [0, 1]."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
