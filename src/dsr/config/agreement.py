"""What sections of the configuration must agree on: names that are known, and numbers that fit each other."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from dsr.base.errors import UserError

if TYPE_CHECKING:
    from dsr.config.load import Config


def disagreements(config: Config) -> list[str]:
    """Return every disagreement as 'key: what is wrong'; where names are unknown, only those."""
    found = [*_unknown_names(config)]
    return found or [*_images(config), *_batches(config), *_guidance(config), *_figures(config)]


def _unknown_names(config: Config) -> Iterator[str]:
    sweep = config.sampling.sweep
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
    if data.source == "digits" and "adm" in config.evaluation.references:
        yield "evaluation.references: adm is a reference for ImageNet and not for digits"
    if data.source == "digits" and not data.prepared:
        yield "data.prepared: the demo's digits are always prepared; leave it at true"
    if data.source == "imagefolder":
        if not (data.train and data.validation):
            yield "data.source is imagefolder: give the paths data.train and data.validation"
        for split in ("train", "validation"):
            if config.artifacts.get(f"imagenet-{split}"):
                yield f"artifacts.imagenet-{split}: data.source is imagefolder, which takes data.{split}; leave one out"


def _batches(config: Config) -> Iterator[str]:
    """A global batch must be there and divide over processes, each of which has a GPU of its own."""
    run = config.execution
    per_step = run.processes * run.nodes
    for name, recipe in config.recipes.items():
        used = any(row.recipe == name for row in config.rows.values())
        if used and recipe.batch > config.data.train_images:
            yield f"recipes.{name}.batch: {recipe.batch} is more than the {config.data.train_images} training images"
        per_process = recipe.batch // per_step
        if recipe.batch % per_step or per_process % (run.micro_batch or per_process):
            yield (
                f"recipes.{name}.batch: {recipe.batch} is not divisible by {per_step} processes"
                f" x micro_batch {run.micro_batch or 'automatic'} (see execution)"
            )
    for rule in type(config.resources).model_fields:
        request = config.request(rule)
        if request.gres and request.gres.rpartition(":")[2] != str(request.gpus):
            yield f"resources.{rule}: gres '{request.gres}' is not gpus = {request.gpus}; let both be the same number"
        if rule in ("statistics", "train", "sample") and 0 < request.gpus < run.processes:
            yield (
                f"resources.{rule}.gpus: {request.gpus} is fewer than execution.processes ({run.processes});"
                " every process needs a GPU of its own (leave it out, or give 0 to compute on CPUs)"
            )


def _guidance(config: Config) -> Iterator[str]:
    """Guidance needs denoisers that learnt the null label."""
    sampling, sweep = config.sampling, config.sampling.sweep
    guided = [
        (f"sampling.guidance.{name}", tuple(config.rows))
        for name, setting in sampling.guidance.items()
        if setting.scale > 1
    ]
    if sweep is not None and max(sweep.scales) > 1:
        guided.append(("sampling.sweep", sweep.rows))
    for place, rows in guided:
        for row in rows:
            denoiser = config.rows[row].denoiser
            if not config.denoisers[denoiser].class_dropout:
                yield (
                    f"{place}: rows.{row} cannot be guided, for denoisers.{denoiser}.class_dropout: 0 teaches it no"
                    " null label; raise that, or leave out guidance"
                )


def _figures(config: Config) -> Iterator[str]:
    figures, rows = config.figures, config.figures.rows or tuple(config.rows)
    last = max(figures.images)
    if not figures.folder and last >= config.data.validation_images:
        yield f"figures.images: {last} is not below the {config.data.validation_images} validation images"
    if figures.epoch and not all(config.rows[row].weights or figures.epoch in config.epochs(row) for row in rows):
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


def overlay_rows(table: str, overlay: Path) -> list[str]:
    """Return the names of the rows that the overlay of a table has.

    Raises:
        UserError: if there is no such file, or it is not a configuration with `rows`.
    """
    key = f"tables.{table}.overlay"
    if not overlay.is_file():
        raise UserError(f"{key}: there is no file {overlay}; give its path from the folder of the Snakefile")
    try:
        content = yaml.safe_load(overlay.read_text(encoding="utf-8"))
        return [*content["rows"]]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise UserError(f"{key}: {overlay} is not a configuration file with a section `rows`") from None
