"""Draw images of classes, named or numbered, with trained weights: a folder of `snakemake model_card`, or a hub's id.

Run: python examples/sample.py --weights results/models/dit-siglip2b-dsr-800 --classes 207 "tabby" --scale 1.5
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from torchvision.models import ResNet50_Weights

from dsr.config.sampling import Guidance
from dsr.sampling.pretrained import load

NAMES = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
"""ImageNet's classes in the order of their numbers."""


def main(
    weights: str, classes: tuple[str, ...], scale: float = 1.0, seed: int = 0, output: Path = Path("samples.png")
) -> None:
    """Draw one image of each class, side by side, on a GPU if there is one."""
    sampler = load(weights, guidance=Guidance(scale=scale))
    labels = [int(name) if name.isdigit() else NAMES.index(name) for name in classes]
    images = sampler.of_classes(labels, seed)
    Image.fromarray(np.concatenate(images, axis=1)).save(output)
    print(f"{output}: {len(images)} images of {images.shape[1]} x {images.shape[2]} pixels")


if __name__ == "__main__":
    tyro.cli(main)
