"""Results of every stage, in small: when one changes, its edition must be raised, so that old results are made anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dsr.base.files import read_json_lines
from dsr.base.randomness import noise
from dsr.config import specs
from dsr.config.encoders import Discovery
from dsr.config.sampling import Guidance
from dsr.data.images import open_images
from dsr.data.loading import pixel_batches
from dsr.denoiser.dit import load_denoiser
from dsr.encoder.autoencoder import load_autoencoder, load_encoder
from dsr.encoder.ttr import find_register_neurons
from dsr.flow import Flow
from dsr.sampling.sampler import trajectory
from dsr.training.loop import train

from .training_row import CLASSES, ONE, tiny_job, tiny_spec

CPU = torch.device("cpu")
RECORDED = {
    "ENCODE": (1, [1.452932, -0.047786993]),
    "DISCOVER": (1, [0.47488359, -0.014895439]),
    "TRAIN": (1, [0.050009037, 0.00014635905, 3.5801206, 2.1719022]),
    "SAMPLE": (1, [0.0016819953, -0.0026747053]),
}
"""Edition of each stage, and a summary of its results then."""


def summary(values: torch.Tensor) -> list[float]:
    """Return the mean square of all values, and their mean with weights that tell positions apart."""
    values = values.detach().double().flatten()
    return [float(values.square().mean()), float((values * torch.linspace(-1, 1, len(values))).mean())]


def results(row: Path, folder: Path) -> dict[str, list[float]]:
    """Return a summary of what every stage makes of the tiny row."""
    spec = tiny_spec()
    files = {"encoder": row / "encoder", "neurons": row / "neurons.json", "statistics": row / "statistics.safetensors"}
    autoencoder = load_autoencoder(spec.encoding, **files, decoder=None)
    plain = spec.encoding.model_copy(update={"ttr": "none", "ttr_options": None})
    images = open_images(row / "images" / "index.npz")
    pixels = next(iter(pixel_batches(images, [(0, False), (1, True)], batch=2, device=CPU)))
    discover = specs.DiscoverSpec(encoding=plain, discovery=Discovery(images=8, norm_threshold=0.1, top_k=2))
    encoder = load_encoder(plain, encoder=row / "encoder", neurons=None)
    found = find_register_neurons(discover, encoder, images, first=None)
    job = tiny_job(row, folder / "run")
    assert train(job, ONE)
    model = load_denoiser(spec.model, job.output, CPU)
    start = noise(0, "sample", range(4), (spec.model.channels, spec.model.grid, spec.model.grid), CPU)
    labels, guided = torch.arange(4) % CLASSES, {"null_label": CLASSES, "guidance": Guidance(scale=2.0)}
    with torch.no_grad():
        *_, latents = trajectory(model, Flow.from_config(spec.flow), start, labels, steps=6, **guided)
    weights = torch.cat([tensor.flatten().float() for tensor in load_file(job.output).values()])
    losses = [entry["loss"] for entry in read_json_lines(job.run_dir / "metrics.jsonl") if "loss" in entry]
    return {
        "ENCODE": summary(autoencoder.encode(pixels)),
        "DISCOVER": summary(torch.tensor([score for _, _, score in found.ranked])),
        "TRAIN": [*summary(weights), *losses[:2]],
        "SAMPLE": summary(latents),
    }


def test_results_that_change_have_another_edition(row: Path, tmp_path: Path) -> None:
    for stage, result in results(row, tmp_path).items():
        edition, recorded = RECORDED[stage]
        # Processors round differently in the last digits.
        same = result == pytest.approx(recorded, rel=1e-4, abs=1e-6)
        assert (edition, same) == (getattr(specs, stage), True), (
            f"raise {stage} in dsr/config/specs.py if results of this stage changed, and record {result} here"
        )
