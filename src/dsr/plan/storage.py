"""What a configuration downloads and what it keeps on disk."""

from __future__ import annotations

from dataclasses import dataclass

from dsr.artifacts.manifest import Manifest
from dsr.config.load import Config
from dsr.plan.memory import GIGABYTE, state_gigabytes
from dsr.plan.stages import sample_sets

CROP_BYTES = 0.77
"""Bytes of a prepared image over those of its pixels, as measured on photograph-like images (benchmarks/NOTES.md)."""

ACTIVATION_BYTES = 4 * (2048 + 2023)
"""Bytes of the Inception features of an image, pooled and spatial."""

STATES = 3
"""Training states in a run's folder while one is being written: that one, the newest, and the one before it."""


@dataclass(frozen=True)
class Item:
    """Something that takes room."""

    what: str
    gigabytes: float | None
    """None: not known."""


def downloads(config: Config, manifest: Manifest) -> list[Item]:
    """What is fetched for the rows: not what the configuration gives a path of, and not what it computes."""
    if config.data.source == "digits":
        return []
    names = []
    for encoder in sorted({row.encoder for row in config.rows.values()}):
        names += [encoder, f"decoder-{encoder}"]
        passes = sorted({row.ttr for row in config.rows.values() if row.encoder == encoder})
        if config.encoders[encoder].statistics == "released":
            names += [f"statistics-{encoder}-{ttr}" for ttr in passes]
    names += [entry.weights.artifact for entry in config.rows.values() if entry.weights]
    names.append("inception-graph")
    if "adm" in config.evaluation.references:
        names.append("reference-imagenet256")
    wanted = [name for name in names if manifest.publishes(name) and not config.artifacts.get(name)]
    items = [Item(name, manifest.artifacts[name].gigabytes) for name in wanted]
    splits = [name for name in ("imagenet-train", "imagenet-validation") if not config.artifacts.get(name)]
    if config.data.source == "kaggle" and splits:
        # One archive has both.
        items.append(Item("ImageNet, one archive", manifest.artifacts[splits[0]].gigabytes))
    return items


def disk(config: Config, manifest: Manifest) -> list[Item]:
    """What lies in the results' folder when everything is done, and training has its states."""
    fetched = downloads(config, manifest)
    weights = [item for item in fetched if not item.what.startswith("ImageNet")]
    items = [Item("encoders, decoders, statistics, weights, evaluator", sum(item.gigabytes or 0.0 for item in weights))]
    archive = next((item.gigabytes for item in fetched if item.what.startswith("ImageNet")), None)
    if archive is not None:
        items.append(Item("ImageNet: the archive (remove it afterwards)", archive))
        afterwards = " (remove them after preparing)" if config.data.prepared else ""
        items.append(Item(f"ImageNet: its images{afterwards}", archive))
    pixels = 3 * config.data.image_size**2
    images = config.data.train_images + config.data.validation_images
    if config.data.prepared:
        items.append(Item(f"prepared images, {images:,}", images * pixels * CROP_BYTES / GIGABYTE))
    state, milestones = 0.0, 0.0
    trained = [row for row, entry in config.rows.items() if entry.recipe]
    for row in trained:
        averages = len(config.averages(row))
        state += STATES * state_gigabytes(config, row, 3 + averages)
        # Every decay in the run's folder, and the first one published.
        milestones += len(config.evaluation.epochs) * state_gigabytes(config, row, 1 + averages)
    items.append(Item(f"training states of {len(trained)} rows", state))
    items.append(Item("weights of their milestones", milestones))
    sets = [images for row in config.rows for _, images in sample_sets(config, row)]
    # One of them is there twice while its parts are joined.
    items.append(Item(f"samples, {len(sets)} sets", (sum(sets) + max(sets)) * pixels / GIGABYTE))
    references = len([name for name in config.evaluation.references if name != "adm"])
    items.append(Item("references", references * config.data.validation_images * pixels / GIGABYTE))
    items.append(Item("activations kept by the evaluation", _kept_images(config) * ACTIVATION_BYTES / GIGABYTE))
    return items


def _kept_images(config: Config) -> int:
    """Images whose activations are kept: the references', and where there are several, those of reported samples."""
    sampling, references = config.sampling, len(config.evaluation.references)
    kept = references * config.data.validation_images
    if references == 1:
        return kept
    for row in config.rows:
        swept = sampling.sweep is not None and row in sampling.sweep.rows
        sets = (len(sampling.guidance) * len(config.epochs(row)) + swept) * len(sampling.seeds)
        kept += sets * sampling.images
    return kept
