"""A row small enough to train in a test: real images, a real SigLIP folder, real files, tiny numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from dsr.base.distributed import World
from dsr.config.encoders import Decoder
from dsr.config.execution import Execution
from dsr.config.specs import AutoencoderSpec, ModelSpec, TrainSpec
from dsr.denoiser.dit import Denoiser, build_denoiser
from dsr.training.start import Job
from tests.unit import tiny_encoder

IMAGES, CLASSES, SIZE, BATCH = 24, 3, 16, 8
STEPS = IMAGES // BATCH
ONE = World(rank=0, size=1, device=torch.device("cpu"))


def make_files(folder: Path) -> Path:
    """Write images, encoder, neuron file, statistics and decoder into ``folder``."""
    tiny_encoder.write_images(folder / "images", IMAGES, classes=CLASSES, size=SIZE)
    layers = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tiny_encoder.write_folder(folder / "encoder", **layers, image_size=SIZE, patch_size=4)
    tiny_encoder.write_parts(folder, tiny_autoencoder(), {0: (3, 5), 1: (2,)})
    return folder


def moved(spec: ModelSpec, seed: int = 0) -> Denoiser:
    """Build a denoiser that is not zero: every parameter is moved off its initial value."""
    torch.manual_seed(seed)
    model = build_denoiser(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def tiny_spec(**recipe: Any) -> TrainSpec:
    """Specification of the tiny row; arguments replace entries of its recipe."""
    encoder = {"family": "siglip2", "hub": "tiny", "revision": "main", "input_size": SIZE, "patch_size": 4, "width": 8}
    encoder |= {"neurons": "released", "statistics": "computed"}
    denoiser = {"kind": "dit", "hidden_size": 16, "depth": 2, "num_heads": 2, "register_start": 1, "class_dropout": 0.3}
    spec = {
        "row": "tiny",
        "encoding": {"encoder": encoder, "ttr": "single", "ttr_options": {}, "image_size": SIZE},
        "model": {"denoiser": denoiser, "registers": 4, "channels": 8, "grid": 4, "classes": CLASSES},
        "flow": {"shift_dim": 196608},
        "recipe": {"batch": BATCH, "lr": 1e-3, "clip": 1.0, "ema": [0.9, 0.99], "precision": "fp32", **recipe},
        "images": IMAGES,
        "flip": True,
    }
    return TrainSpec.model_validate_json(json.dumps(spec))


def tiny_autoencoder() -> AutoencoderSpec:
    """The tiny row's encoder with a decoder."""
    decoder = Decoder(hidden_size=8, depth=1, num_heads=1, intermediate_size=16)
    return AutoencoderSpec(**dict(tiny_spec().encoding), decoder=decoder)


def tiny_job(row: Path, run: Path, *, epoch: int = 4, spec: TrainSpec | None = None, **options: Any) -> Job:
    """Job that trains the tiny row in ``row`` with its state in ``run``; how it runs is among the options."""
    execution = {key: options.pop(key) for key in Execution.model_fields if key in options}
    defaults: dict[str, Any] = {
        "spec": spec or tiny_spec(),
        "epoch": epoch,
        "images": row / "images" / "index.npz",
        "encoder": row / "encoder",
        "neurons": row / "neurons.json",
        "statistics": row / "statistics.safetensors",
        "run_dir": run,
        "output": run.parent / f"{run.name}-epoch-{epoch}" / "ema.safetensors",
        "execution": Execution(**{"log_every": 1, "tensorboard": False, **execution}),
    }
    return Job(**{**defaults, **options})


def command_line(job: Job) -> list[str]:
    """Arguments of ``dsr.commands.train`` for a job."""
    given = {field.name.replace("_", "-"): getattr(job, field.name) for field in dataclasses.fields(job)}
    texts = {name: one.model_dump_json() if isinstance(one, BaseModel) else one for name, one in given.items()}
    return [f"--{name}={text}" for name, text in texts.items() if text is not None]


def final_state(run: Path) -> dict[str, Any]:
    """Content of the newest state in ``run``."""
    path = max(run.glob("state-*.pt"))
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def differences(first: Any, second: Any, place: str = "") -> list[str]:
    """Places where two nested states are not equal bit for bit."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) and first.dtype == second.dtype else [place]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{place}: keys"]
        return [line for key in first for line in differences(first[key], second[key], f"{place}/{key}")]
    if isinstance(first, list | tuple):
        return differences(dict(enumerate(first)), dict(enumerate(second)), place)
    return [] if first == second else [place]


def largest_gap(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference between two sets of weights."""
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)
