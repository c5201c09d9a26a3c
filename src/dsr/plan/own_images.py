"""The overlay that trains on a folder of one's own images: what it says follows from the images and the machine."""

import copy
import logging
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from PIL import Image

from dsr.base import files
from dsr.base.errors import UserError
from dsr.base.programs import output_of
from dsr.base.randomness import permutation
from dsr.config.load import load
from dsr.data.images import Listing, is_hidden, list_folder

log = logging.getLogger(__name__)

SMALLEST_BATCH, STEPS_PER_EPOCH = 8, 8
"""The batch is the largest power of two, up to the paper's, that leaves so many steps an epoch."""

ON_GPUS = ("discover_neurons", "statistics", "train", "sample", "evaluate", "maps")
"""Rules whose jobs ask for GPUs."""


@dataclass(frozen=True)
class OwnImages:
    """A folder of images, and what is trained on it: a denoiser without registers, and one with registers."""

    train: Path
    """Folder of training images: one folder per class, or all images in it, which are one class."""
    output: Path
    """Overlay to write, YAML. Links to the images stand in a folder of its name beside it."""
    validation: Path | None = None
    """Folder of validation images, sorted alike (default: `hold_out` of the training images)."""
    hold_out: float = 0.1
    """Share of every class that is held out for validation, where no folder is given."""
    encoder: str = "siglip2-b"
    """Encoder by its name in the configuration: siglip2-b, siglip2-so400m, dinov2-b-registers."""
    denoiser: str = "dit-xl"
    """Denoiser by its name in the configuration; dit-b and dit-s with profiles/ablations/config-overlay.yaml."""
    steps: int = 20000
    """Optimizer steps, about."""
    gpus: int | None = None
    """GPUs to train on (default: those of this machine; 0 computes on CPUs)."""
    precision: Literal["tf32", "fp16", "bf16", "fp32"] = "tf32"
    """Arithmetic of training."""
    seed: int = 0
    """Which images are held out."""
    config: tuple[Path, ...] = (Path("config.yaml"),)
    """The configuration, and overlays that come before this one."""


def write_overlay(job: OwnImages) -> None:
    """Look at the images, choose, check that the configuration is valid, write, and say what was chosen.

    Raises:
        UserError: if the images cannot be used, or the configuration is not valid with them.
    """
    base = _merged(*map(_read, job.config))
    for key, name in (("encoders", job.encoder), ("denoisers", job.denoiser)):
        if name not in base[key]:
            raise UserError(f"--{key[:-1]} {name}: {', '.join(map(str, job.config))} has {', '.join(base[key])}")
    folders = job.output.with_suffix("")
    if folders.exists():
        raise UserError(f"{folders}: exists already; remove it, or write another overlay")
    train, validation = _split(job)
    chosen, notes = _choose(job, base, train, validation, folders)
    config = load(_merged(base, chosen))
    _link(train, folders / "train")
    _link(validation, folders / "validation")
    text = "".join(f"# {line}\n" for line in notes) + yaml.safe_dump(chosen, sort_keys=False, width=110)
    files.write_text(job.output, text)
    for line in notes:
        log.info("%s", line)
    extra = " ".join(map(str, [*job.config[1:], job.output]))
    log.info("See what it costs:  snakemake --cores 1 plan --configfile %s", extra)
    log.info("Run it:             snakemake --cores all %s/table1.md --configfile %s", config.results, extra)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    return content


def _merged(*parts: dict[str, Any]) -> dict[str, Any]:
    from snakemake.utils import update_config  # takes a second

    merged: dict[str, Any] = {}
    for part in parts:
        update_config(merged, copy.deepcopy(part))
    return merged


def _split(job: OwnImages) -> tuple[Listing, Listing]:
    """List training and validation images."""
    listing = _listed(job.train)
    if job.validation is not None:
        validation = _listed(job.validation)
        if validation.classes != listing.classes:
            differing = sorted({*validation.classes} ^ {*listing.classes})[:3]
            raise UserError(f"{job.validation}: other classes than {job.train} ({', '.join(differing)})")
        return listing, validation
    order = permutation(job.seed, "hold out", 0, len(listing.paths))
    held = np.zeros(len(order), dtype=bool)
    for label in range(len(listing.classes)):
        mine = order[listing.labels[order] == label]
        count = round(job.hold_out * len(mine))
        if not 0 < count < len(mine):
            raise UserError(
                f"{job.train}: class '{listing.classes[label]}' has {len(mine)} images, of which {count} would be"
                " held out; at least one of each is needed on both sides (--hold-out, --validation)"
            )
        held[mine[:count]] = True
    return _part(listing, ~held), _part(listing, held)


def _link(images: Listing, folder: Path) -> None:
    """Make an ImageFolder of links."""
    for number, (path, label) in enumerate(zip(images.paths, images.labels, strict=True)):
        link = folder / images.classes[label] / f"{number:07d}{path.suffix.lower()}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.absolute())


def _listed(folder: Path) -> Listing:
    """Images of a folder; those of one without class folders are one class, `images`."""
    if not folder.is_dir() or any(entry.is_dir() and not is_hidden(entry.name) for entry in folder.iterdir()):
        return list_folder(folder)
    with tempfile.TemporaryDirectory() as place:
        (flat := Path(place, "images")).symlink_to(folder.absolute())
        found = list_folder(flat.parent)
    return Listing([folder / path.relative_to(flat) for path in found.paths], found.labels, found.classes)


def _part(listing: Listing, kept: Any) -> Listing:
    paths = [path for path, keep in zip(listing.paths, kept, strict=True) if keep]
    return Listing(paths, listing.labels[kept], listing.classes)


def _choose(
    job: OwnImages, base: dict[str, Any], train: Listing, validation: Listing, folders: Path
) -> tuple[dict[str, Any], list[str]]:
    """Return the overlay, and a line for each choice that says why."""
    images, classes, size = len(train.paths), len(train.classes), base["data"]["image_size"]
    sides = np.array([min(_size(path)) for path in train.paths[:: max(1, images // 500)]])
    gpus = _gpus() if job.gpus is None else job.gpus
    paper = base["recipes"]["dit"]
    batch = min(paper["batch"], 2 ** int(math.log2(max(1, images // STEPS_PER_EPOCH))))
    batch = max(batch, SMALLEST_BATCH, gpus)
    steps_per_epoch = images // batch
    if not steps_per_epoch:
        raise UserError(
            f"{job.train}: {images} images are too few for a batch of {batch}; give more images or fewer GPUs"
        )
    epochs = max(2, math.ceil(job.steps / steps_per_epoch))
    milestones = sorted({max(1, epochs // 4), epochs})
    first = milestones[0] * steps_per_epoch
    decay = min(paper["ema"][0], round(1 - 5 / first, 4)) if first > 10 else 0.5
    recipe = {**paper, "batch": batch, "ema": [decay], "precision": job.precision}
    if paper.get("decay_epochs"):
        recipe["decay_epochs"] = [epochs // 2, epochs]
    samples = classes * math.ceil(min(50000, max(images, 1000)) / classes)
    encoder = base["encoders"][job.encoder]
    grid = encoder["input_size"] // encoder["patch_size"]
    shift = base["flow"]["shift_dim"]
    ttr = "none" if "registers" in job.encoder else "recursive" if "so400m" in job.encoder else "single"
    row = {"encoder": job.encoder, "denoiser": job.denoiser, "recipe": "own"}
    registers = math.isqrt(min(36, grid**2 // 4)) ** 2
    shown = sorted({round(place * (len(validation.paths) - 1) / 3) for place in range(4)})
    chosen: dict[str, Any] = {
        "name": job.output.stem,
        "results": f"results/{job.output.stem}",
        "data": {
            "source": "imagefolder", "train": str((folders / "train").absolute()),
            "validation": str((folders / "validation").absolute()), "classes": classes, "train_images": images,
            "validation_images": len(validation.paths), "shards": min(128, math.ceil(images / 2000)),
            "flip": True,
        },
        "rows": {
            **dict.fromkeys(base["rows"]),
            "baseline": {**row, "ttr": "none", "registers": 0},
            "dsr": {**row, "ttr": ttr, "registers": registers},
        },
        "encoders": {job.encoder: {"statistics": "computed"}},
        "recipes": {"own": recipe},
        "discovery": {"images": min(base["discovery"]["images"], images)},
        "sampling": {"images": samples, "sweep": None},
        "evaluation": {"epochs": milestones},
        "figures": {"images": shown},
        "tables": dict.fromkeys(base["tables"]),
        "execution": {"processes": max(1, gpus)},
    }  # fmt: skip
    if gpus == 0:
        chosen["execution"] |= {"compile": False, "workers": 0}
        chosen["resources"] = {name: {"gpus": 0} for name in ON_GPUS}
    notes = [
        f"{images} training and {len(validation.paths)} validation images of {classes} classes"
        f" ({', '.join(train.classes[:5])}{', ...' if classes > 5 else ''})"
        + (f", {job.hold_out:.0%} of each class held out, seed {job.seed}" if job.validation is None else ""),
        f"their shorter sides are {sides.min()} to {sides.max()} pixels (median {int(np.median(sides))}); all become"
        f" {size} x {size}, which the decoder makes"
        + (f"; {np.mean(sides < size):.0%} are enlarged for it" if (sides < size).any() else ""),
        f"batch {batch}: {steps_per_epoch} steps an epoch; {epochs} epochs are {epochs * steps_per_epoch} steps",
        f"decay {decay} of the moving average forgets initial weights by the first scored epoch, {milestones[0]}",
        f"{samples} samples, as many of each class; FID against {len(validation.paths)} validation images compares rows"
        " with each other and with nothing published",
        f"baseline: no registers; dsr: test-time registers ({ttr}) and {registers} diffusion registers",
        f"{gpus} GPUs" if gpus else "no GPU was found, so everything runs on CPUs",
    ]
    counts = np.bincount(train.labels)
    if counts.max() > 2 * counts.min():
        notes.append(f"classes have {counts.min()} to {counts.max()} images; samples have as many of each all the same")
    if shift != grid**2 * encoder["width"]:
        notes.append(
            f"flow.shift_dim stays {shift}, as the release has it for all; by its formula it were"
            f" {grid**2 * encoder['width']} here"
        )
    return chosen, notes


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise UserError(f"{path}: no image ({error}); remove it") from None


def _gpus() -> int:
    listed = output_of("nvidia-smi", "--list-gpus")
    return len(listed.splitlines()) if listed else 0
