"""What sections of the configuration must agree on: names that are known, and numbers that fit each other."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsr.config.load import Config

IMAGENET = 1000
"""Images of so many classes count as ImageNet's."""


def disagreements(config: Config) -> list[str]:
    """Return every disagreement as 'key: what is wrong'; where names are unknown, only those."""
    found = [*_unknown_names(config)]
    return found or [*_images(config), *_batches(config), *_starts(config), *_guidance(config), *_figures(config)]


def _unknown_names(config: Config) -> Iterator[str]:
    known_to_rows: dict[str, Collection[str]] = {
        "encoder": config.encoders,
        "denoiser": config.denoisers,
        "recipe": config.recipes,
        "compare_with": [*config.rows, *sorted(published_rows())],
    }
    names: list[tuple[str, str | None, Collection[str]]] = [
        (f"rows.{name}.{key}", getattr(row, key), known)
        for name, row in config.rows.items()
        for key, known in known_to_rows.items()
    ]
    sweep = config.sampling.sweep
    names += [("sampling.sweep.rows", row, config.rows) for row in (sweep.rows if sweep else ())]
    names += [("figures.rows", row, config.rows) for row in config.figures.rows or ()]
    for key, value, known in names:
        if value is not None and value not in known:
            yield f"{key}: '{value}' is not one of {', '.join(known)}"


def _images(config: Config) -> Iterator[str]:
    data, sampling, sweep = config.data, config.sampling, config.sampling.sweep
    for key, images in (("images", sampling.images), ("sweep.images", sweep.images if sweep else 0)):
        if images % data.classes:
            yield f"sampling.{key}: {images} is not a multiple of {data.classes} classes"
    if config.discovery.images > data.train_images:
        yield f"discovery.images: {config.discovery.images} is more than the {data.train_images} training images"
    for name in {row.encoder: None for row in config.rows.values()}:
        grid = config.encoders[name].grid
        if data.image_size % grid:
            yield (
                f"encoders.{name}: data.image_size {data.image_size} is not a multiple of its {grid} tokens along a"
                " side (input_size / patch_size), so no decoder's patches would fill the image"
            )
    released = {
        row.encoder: None
        for row in config.rows.values()
        if config.encoders[row.encoder].statistics == "released"
        # Published weights know latents as their own statistics make them, whatever the images.
        if not row.weights and not config.artifacts.get(f"statistics-{row.encoder}-{row.ttr}")
    }
    for name in released if data.classes != IMAGENET else ():
        yield (
            f"encoders.{name}.statistics: the released ones are of ImageNet's {IMAGENET} classes, and data.classes is"
            f" {data.classes}; set it to computed"
        )
    if data.source == "digits" and "adm" in config.evaluation.references:
        yield "evaluation.references: adm is a reference for ImageNet and not for digits"
    for split, path in (("train", data.train), ("validation", data.validation)):
        if (path is None) is (data.source == "imagefolder"):
            yield f"data.{split}: give the path of an ImageFolder exactly where data.source is imagefolder"
        if path and config.artifacts.get(f"imagenet-{split}"):
            yield f"artifacts.imagenet-{split}: data.{split} is given too; leave one out"
    for name in {*config.tables} & {"reconstruction", "backbones"}:
        yield f"tables.{name}: every configuration has a table of this name; choose another one"
    for name in {*config.sources} & {*config.artifacts}:
        yield f"sources.{name}: artifacts.{name} is given too; leave one out"
    if data.source == "digits" and not data.prepared:
        yield "data.prepared: the demo's digits are always prepared; leave it at true"


def _batches(config: Config) -> Iterator[str]:
    """A global batch must be there and divide over processes, each of which has a GPU of its own."""
    run = config.execution
    per_step = run.processes * run.nodes
    for name, recipe in config.recipes.items():
        used = any(row.recipe == name for row in config.rows.values())
        if used and recipe.batch > config.data.train_images:
            yield f"recipes.{name}.batch: {recipe.batch} is more than the {config.data.train_images} training images"
        if recipe.batch % (per_step * (run.micro_batch or 1)):
            yield (
                f"recipes.{name}.batch: {recipe.batch} is not divisible by {per_step} processes"
                f" x micro_batch {run.micro_batch or 'automatic'} (see execution)"
            )
    for rule in type(config.resources).model_fields:
        request = config.request(rule)
        # The plugin's own pattern, and as many as there are.
        if request.gres and not re.fullmatch(rf"\w+(:[\w.]+)?:{request.gpus}", request.gres, re.ASCII):
            yield (
                f"resources.{rule}.gres: '{request.gres}' is not name:{request.gpus} or name:type:{request.gpus} of"
                " letters, digits, '_' and '.'; let it be as many as gpus, or choose by partition or constraint"
            )
        if rule in ("statistics", "train", "sample") and 0 < request.gpus < run.processes:
            yield (
                f"resources.{rule}.gpus: {request.gpus} is fewer than execution.processes ({run.processes});"
                " every process needs a GPU of its own (leave it out, or give 0 to compute on CPUs)"
            )


def _starts(config: Config) -> Iterator[str]:
    """Training goes on with what the weights that it begins with were trained for."""
    for name, row in config.rows.items():
        if row.recipe and row.weights and row.weights.prediction != config.flow.prediction:
            yield (
                f"rows.{name}.weights.prediction: {row.weights.prediction}, but flow.prediction is"
                f" {config.flow.prediction}; training from them needs the same"
            )


def _guidance(config: Config) -> Iterator[str]:
    """Guidance needs denoisers that learnt the null label."""
    sweep = config.sampling.sweep
    guided = {
        f"sampling.guidance.{name}": [*config.rows] for name, at in config.sampling.guidance.items() if at.scale > 1
    }
    if sweep and max(sweep.scales) > 1:
        guided["sampling.sweep"] = [*sweep.rows]
    for place, row in ((place, row) for place, rows in guided.items() for row in rows):
        denoiser = config.rows[row].denoiser
        if not config.denoisers[denoiser].class_dropout:
            yield (
                f"{place}: rows.{row} cannot be guided, for denoisers.{denoiser}.class_dropout: 0 teaches it no null"
                " label; raise that, or leave out guidance"
            )


def _figures(config: Config) -> Iterator[str]:
    figures, rows = config.figures, config.figures.rows or tuple(config.rows)
    last = max(figures.images)
    if not figures.folder and last >= config.data.validation_images:
        yield f"figures.images: {last} is not below the {config.data.validation_images} validation images"
    if figures.epoch and not all(config.rows[row].fetched or figures.epoch in config.epochs(row) for row in rows):
        yield f"figures.epoch: {figures.epoch} is not one of evaluation.epochs"
    deepest = max(config.denoisers[config.rows[row].denoiser].blocks for row in rows)
    if figures.layers and figures.layers[-1] > deepest:
        yield (
            f"figures.layers: {figures.layers[-1]} is beyond the last block ({deepest}) of every denoiser drawn;"
            " give fewer, or null for equal shares of the depth"
        )


def published_rows() -> set[str]:
    """Names of the rows of which the paper publishes numbers."""
    text = (resources.files("dsr.report") / "published.csv").read_text(encoding="utf-8")
    return {line["row"] for line in csv.DictReader(text.splitlines())}
