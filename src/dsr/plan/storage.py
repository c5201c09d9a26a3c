"""What a configuration downloads and what it keeps on disk, in GB."""

from __future__ import annotations

from dsr.analysis.cost import denoiser_cost
from dsr.artifacts.manifest import Manifest
from dsr.config.load import Config
from dsr.plan.stages import reported_sets, sample_sets

GIGABYTE = 1e9

CROP_BYTES = 0.67
"""Bytes of a prepared image over those of its pixels, as measured on photograph-like images (benchmarks/NOTES.md)."""

ACTIVATION_BYTES = 4 * (2048 + 2023)
"""Bytes of the Inception features of an image, pooled and spatial."""

STATES = 3
"""Training states in a run's folder while one is being written: that one, the newest, and the one before it."""

ARCHIVE = "ImageNet, one archive"


def downloads(config: Config, manifest: Manifest) -> dict[str, float | None]:
    """What is fetched for the rows, None for unknown sizes: not what a path is given of, nor what is computed."""
    if config.data.source == "digits":
        return {}
    names = []
    for encoder in sorted({row.encoder for row in config.rows.values()}):
        names += [encoder, f"decoder-{encoder}"]
        if config.encoders[encoder].statistics == "released":
            passes = sorted({row.ttr for row in config.rows.values() if row.encoder == encoder})
            names += [f"statistics-{encoder}-{ttr}" for ttr in passes]
    names += [entry.weights.artifact for entry in config.rows.values() if entry.weights]
    names.append("inception-graph")
    if "adm" in config.evaluation.references:
        names.append("reference-imagenet256")
    wanted = [name for name in names if manifest.publishes(name) and not config.artifacts.get(name)]
    items = {name: manifest.artifacts[name].gigabytes for name in wanted}
    splits = [name for name in ("imagenet-train", "imagenet-validation") if not config.artifacts.get(name)]
    if config.data.source == "kaggle" and splits:
        items[ARCHIVE] = manifest.artifacts[splits[0]].gigabytes
    return items


def disk(config: Config, manifest: Manifest) -> dict[str, float | None]:
    """What lies in the results' folder when everything is done, and training has its states."""
    data, fetched = config.data, downloads(config, manifest)
    archive = fetched.pop(ARCHIVE, None)
    items = {"encoders, decoders, statistics, weights, evaluator": sum(size or 0.0 for size in fetched.values())}
    if archive is not None:
        items["ImageNet: the archive (remove it afterwards)"] = archive
        items[f"ImageNet: its images{' (remove them after preparing)' if data.prepared else ''}"] = archive
    image = 3 * data.image_size**2 / GIGABYTE
    images = data.train_images + data.validation_images
    if data.prepared:
        items[f"prepared images, {images:,}"] = images * image * CROP_BYTES
    trained = [row for row, entry in config.rows.items() if entry.recipe]
    # A float32 copy of the denoiser, and the number of averages, of every row that is trained.
    copies = [
        (4 * denoiser_cost(config.model(row)).parameters / GIGABYTE, len(config.averages(row))) for row in trained
    ]
    states = sum(STATES * copy * (3 + averages) for copy, averages in copies)
    items[f"training states of {len(trained)} rows"] = states
    # Every decay in the run's folder, and the first one published.
    milestones = len(config.evaluation.epochs) * sum(copy * (1 + averages) for copy, averages in copies)
    items["weights of their milestones"] = milestones
    sets = [images for row in config.rows for _, images in sample_sets(config, row)]
    # One of them is there twice while its parts are joined.
    items[f"samples, {len(sets)} sets"] = (sum(sets) + max(sets)) * image
    references = len([name for name in config.evaluation.references if name != "adm"])
    items["references"] = references * data.validation_images * image
    kept = len(config.evaluation.references) * data.validation_images
    if len(config.evaluation.references) > 1:
        kept += sum(images for row in config.rows for _, images in reported_sets(config, row))
    items["activations kept by the evaluation"] = kept * ACTIVATION_BYTES / GIGABYTE
    return {**items}
