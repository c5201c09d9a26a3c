"""A user's own copies of everything that is fetched: the manifest's forms, at the smallest sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import SiglipConfig, SiglipVisionConfig, SiglipVisionModel

from dsr.artifacts.manifest import load
from dsr.base.files import write_json
from dsr.config.specs import AutoencoderSpec
from dsr.encoder.autoencoder import build_decoder
from dsr.encoder.statistics import LatentStatistics
from tests.unit.artifact_manifest import graph

WIDTH, SIDE, IMAGES, CLASSES = 8, 64, 36, 2
GRID = 16
"""The manifest's encoder has 256 positions whatever the configuration says."""

OVERLAY: dict[str, Any] = {
    "results": "results/local",
    "discovery": {"images": IMAGES},
    "figures": {"images": [0]},
    "encoders": {
        "siglip2-b": {
            "hub": "someone/tiny",
            "input_size": SIDE,
            "patch_size": SIDE // GRID,
            "width": WIDTH,
            "neurons": "released",
            "statistics": "released",
        }
    },
    "data": {
        "source": "kaggle",
        "classes": CLASSES,
        "train_images": IMAGES,
        "validation_images": CLASSES,
        "image_size": SIDE,
        "shards": 1,
    },
}
"""Beside the demo's sizes."""


def write(folder: Path, spec: AutoencoderSpec) -> dict[str, str]:
    """Write copies for an encoder of this specification; return their paths by id of the manifest."""
    copies = {
        "siglip2-b": _encoder(folder / "tiny-siglip"),
        "decoder-siglip2-b": folder / "decoder.safetensors",
        "statistics-siglip2-b-none": folder / "stat.pt",
        "imagenet-train": _images(folder / "train", IMAGES),
        "imagenet-validation": _images(folder / "validation", CLASSES),
        "inception-graph": folder / "graph.pb",
    }
    torch.manual_seed(0)
    save_file(build_decoder(spec).state_dict(), copies["decoder-siglip2-b"])
    statistics = LatentStatistics(spec.latent_shape)
    statistics.update(torch.randn(16, *spec.latent_shape))
    torch.save(
        {"mean": statistics.mean.float(), "var": statistics.variance.float()}, copies["statistics-siglip2-b-none"]
    )
    copies["inception-graph"].write_bytes(graph(*load().get("inception-graph").check.names))
    return {name: str(path) for name, path in copies.items()}


def _encoder(folder: Path) -> Path:
    check = load().get("siglip2-b").check.model_dump()
    vision = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=check["intermediate_size"],
        num_hidden_layers=check["depth"],
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=SIDE // GRID,
        vision_use_head=False,
    )
    SiglipVisionModel(vision).save_pretrained(folder)
    SiglipConfig(vision_config=vision.to_dict()).save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    return folder


def _images(folder: Path, count: int) -> Path:
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"n{number % CLASSES:08d}" / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (80, 70, 3), dtype=np.uint8)).save(path)
    return folder
