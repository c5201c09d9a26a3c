"""Trained weights in a script of one's own: `load("results/models/dit-siglip2b-dsr-800")`; and a grid of images of
chosen classes, with the numbers that draw each of them again."""

import logging
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from PIL import Image, ImageDraw, ImageFont

from dsr.base import files
from dsr.base.errors import UserError
from dsr.config.agreement import IMAGENET
from dsr.config.sampling import Guidance
from dsr.config.specs import SampleSpec
from dsr.data.images import class_names
from dsr.sampling.sampler import Images, Sampler

log = logging.getLogger(__name__)

FILES = ("config.json", "model.safetensors", "statistics.safetensors", "decoder.safetensors")
"""Specification of samples, EMA weights, latent statistics, and the pixel decoder."""
GAP, CAPTION = 4, 16
"""Pixels between images, and of the text above a line."""


def load(
    source: str | Path,
    *,
    decoder: Path | None = None,
    guidance: Guidance | None = None,
    device: torch.device | str | None = None,
) -> Sampler:
    """Load trained weights with what makes images of what they draw.

    Args:
        source: a folder as the rule `model_card` writes it, or the id of a repository on the Hugging Face hub.
        decoder: the pixel decoder, where the folder has none.
        guidance: another than the folder's.
        device: where to draw; a GPU if there is one.

    Raises:
        UserError: if a file is missing, damaged, or does not fit the others.
    """
    folder = Path(source)
    if not folder.is_dir():
        try:
            folder = Path(huggingface_hub.snapshot_download(str(source), allow_patterns=[*FILES]))
        except (HfHubHTTPError, HFValidationError) as error:
            raise UserError(f"{source}: no such folder, and not on the hub ({' '.join(str(error).split())})") from None
    config, weights, statistics, own_decoder = (folder / name for name in FILES)
    if not config.is_file():
        raise UserError(f"{config}: no such file; expected a folder that `snakemake model_card` made")
    if not (decoder or own_decoder).is_file():
        raise UserError(f"{decoder or own_decoder}: no such file; give the decoder's: load(..., decoder=...)")
    spec = SampleSpec.model_validate_json(config.read_bytes())
    return Sampler(
        spec.model_copy(update={"guidance": guidance or spec.guidance}),
        weights=weights,
        statistics=statistics,
        decoder=decoder or own_decoder,
        device=torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")),
    )


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
