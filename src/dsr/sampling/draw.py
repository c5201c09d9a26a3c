"""A grid of images of chosen classes, with the numbers that draw each of them again."""

import logging
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dsr.base import files
from dsr.base.errors import UserError
from dsr.config.agreement import IMAGENET
from dsr.config.sampling import Guidance
from dsr.data.images import class_names
from dsr.sampling.pretrained import load
from dsr.sampling.sampler import Images

log = logging.getLogger(__name__)

GAP, CAPTION = 4, 16
"""Pixels between images, and of the text above a line."""


@dataclass(frozen=True)
class Grid:
    """Images of classes: a line for each class, image n of every class in column n."""

    model: str
    """Folder of trained weights, results/models/{row}-{epoch} (Snakemake makes its config.json), or a hub's id."""
    classes: tuple[str, ...]
    """Classes by number or name."""
    output: Path
    """PNG of the grid."""
    count: int = 8
    """Images of each class."""
    first: int = 0
    """Number of the first one. Image n of a class is always the same, with one seed on one kind of device."""
    seed: int = 0
    """Other images."""
    guidance: float | None = None
    """Guidance scale, at all times (default: as the model's folder says; 1 is none)."""
    names: Path | None = None
    """Index of prepared images (data/prepared/train/index.npz), whose class folders name the classes."""
    each: Path | None = None
    """Folder for a PNG of every image, {class}-{number}.png."""
    device: str | None = None
    """Where to draw (default: a GPU if there is one)."""


def draw(job: Grid) -> None:
    """Draw the images and write them.

    Raises:
        UserError: if a class is not known, or the model cannot be read.
    """
    guidance = None if job.guidance is None else Guidance(scale=job.guidance)
    sampler = load(job.model, guidance=guidance, device=job.device)
    names = _names(sampler.classes, job.names)
    labels = [_label(name, names, sampler.classes) for name in job.classes]
    if job.count < 1 or not labels:
        raise UserError(f"--count {job.count} of {len(labels)} classes: expected at least one image of one class")
    numbers = range(job.first, job.first + job.count)
    lines = [sampler.of_classes([label] * job.count, job.seed, numbers) for label in labels]
    if job.each is not None:
        for label, images in zip(labels, lines, strict=True):
            for number, image in zip(numbers, images, strict=True):
                _write(job.each / f"{label}-{number}.png", Image.fromarray(image))
    which = f"images {numbers[0]} to {numbers[-1]}, seed {job.seed}"
    captions = [f"{label}{' ' + names[label] if names else ''}: {which}" for label in labels]
    _write(job.output, _sheet(lines, captions))
    for caption in captions:
        log.info("%s: class %s", job.output, caption)


def _names(classes: int, index: Path | None) -> list[str]:
    """Names of a model's classes, or nothing where they are not known."""
    if index is not None:
        names = class_names(index)
        if len(names) != classes:
            raise UserError(f"{index}: {len(names)} classes, but the model has {classes}; give its training images'")
        return names
    if classes == IMAGENET:
        from torchvision.models import ResNet50_Weights  # takes seconds

        return list(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])
    return []


def _label(name: str, names: list[str], classes: int) -> int:
    found = [label for label, other in enumerate(names) if other == name]
    if len(found) > 1:
        raise UserError(f"class {name!r} is the name of several ({', '.join(map(str, found))}); give the number")
    if not found and not name.isdigit():
        near = [other for other in names if name.lower() in other.lower()][:5]
        hint = f"; there are {', '.join(map(repr, near))}" if near else ""
        raise UserError(f"class {name!r}: expected a name{hint}, or a number from 0 to {classes - 1}")
    return found[0] if found else int(name)


def _sheet(lines: list[Images], captions: list[str]) -> Image.Image:
    """Tile images (n, H, W, 3), a line each below its caption."""
    count, height, width = lines[0].shape[:3]
    sheet = Image.new("RGB", (count * (width + GAP) - GAP, len(lines) * (height + CAPTION)), "white")
    text, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION - 5)
    for line, (images, caption) in enumerate(zip(lines, captions, strict=True)):
        top = line * (height + CAPTION)
        text.text((0, top), caption, "black", font)
        for column, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (column * (width + GAP), top + CAPTION))
    return sheet


def _write(path: Path, image: Image.Image) -> None:
    with files.atomic(path) as temporary:
        image.save(temporary, format="PNG")
