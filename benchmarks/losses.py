"""How far the losses of a training in TF32, fp16 and bf16 are from those in fp32: `python -m benchmarks.losses`.

DiT-B with registers learns the latents of crops of photographs, in every precision from the same initial weights, on
the same samples with the same noise. The precisions share the GPU, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks import inputs, machine
from benchmarks.encode import autoencoder
from dsr.accel.device import set_arithmetic
from dsr.accel.models import accelerate
from dsr.base import files
from dsr.config.specs import TrainSpec
from dsr.denoiser.dit import build_denoiser
from dsr.flow import Flow
from dsr.training.batches import MicroBatch
from dsr.training.learner import Learner

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
CROPS, CLASSES, BATCH = 4096, 5, 16
WINDOW = 100
"""Steps over which distances are averaged."""


def specification(precision: str) -> TrainSpec:
    """Return the row dit-b-siglip2b-dsr of the ablations at a small batch."""
    spec = inputs.configuration(overlay="profiles/ablations/config-overlay.yaml").train("dit-b-siglip2b-dsr")
    recipe = spec.recipe.model_copy(update={"batch": BATCH, "precision": precision})
    return spec.model_copy(update={"recipe": recipe, "images": CROPS})


def crops(size: int) -> torch.Tensor:
    """Cut random squares out of scikit-learn's two photographs: (CROPS, 3, size, size) uint8."""
    random, photographs = np.random.default_rng(0), [Image.fromarray(image) for image in load_sample_images().images]
    found = []
    for number in range(CROPS):
        image, side = photographs[number % 2], int(random.integers(48, 400))
        left, top = int(random.integers(image.width - side)), int(random.integers(image.height - side))
        crop = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
        found.append(np.asarray(crop))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


@torch.no_grad()
def latents() -> torch.Tensor:
    """Encode the crops in TF32 and normalise every channel and position: (CROPS, C, S, S) on the CPU."""
    set_arithmetic("tf32", 1)
    encoder = autoencoder(specification("tf32").encoding, torch.device("cuda"))
    parts = [encoder.encode(part.cuda().float() / 255) for part in crops(256).split(128)]
    encoded = torch.cat(parts)
    return ((encoded - encoded.mean(0)) / encoded.std(0)).cpu()


def train(precision: str, encoded: Path, steps: int, until: float, output: Path) -> None:
    """Train as the rules do for some steps, and write every step's loss, gradient norm and loss scale."""
    spec, world = specification(precision), machine.one_gpu()
    set_arithmetic(precision, 1, deterministic=True)
    clean = torch.load(encoded).cuda()
    torch.manual_seed(0)
    learner = Learner(
        build_denoiser(spec.model),
        Flow.from_config(spec.flow),
        spec.recipe,
        world,
        steps_per_epoch=spec.steps_per_epoch,
    )
    accelerate(learner.model, world.device, learner.precision)  # type: ignore[arg-type]
    random, host = torch.Generator("cuda"), torch.Generator()
    found: list[tuple[float, float, float | None]] = []
    while len(found) < steps and time.time() < until:
        random.manual_seed(len(found))
        host.manual_seed(len(found))
        chosen = torch.randint(CROPS, (BATCH,), generator=host)
        noise = torch.randn(BATCH, *clean.shape[1:], device="cuda", generator=random)
        t = Flow.from_config(spec.flow).times(torch.rand(BATCH, generator=host)).cuda()
        batch = MicroBatch(clean[chosen.cuda()], noise, t, (chosen % CLASSES).cuda())
        result = learner.update([batch], stop=lambda: False)
        found.append((result.loss, result.grad_norm, learner.state({}).loss_scale))
    files.write_json(output, found)


def distances(losses: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Root mean square over WINDOW steps of the relative distance to fp32's losses, by precision."""
    found = {}
    for precision in losses.keys() - {"fp32"}:
        steps = min(len(losses[precision]), len(losses["fp32"]))
        relative = losses[precision][:steps] / losses["fp32"][:steps] - 1
        found[precision] = np.sqrt(np.convolve(relative**2, np.full(WINDOW, 1 / WINDOW), mode="valid"))
    return found


def draw(losses: dict[str, np.ndarray], path: Path) -> None:
    """Draw the distances over the steps, and the losses."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for precision, distance in sorted(distances(losses).items()):
        left.semilogy(np.arange(len(distance)) + WINDOW, distance, label=precision)
    left.set(xlabel="step", ylabel=f"distance from fp32, RMS over {WINDOW} steps", title="Relative distance of losses")
    left.legend()
    mean = np.full(WINDOW, 1 / WINDOW)
    for precision, values in losses.items():
        right.plot(
            np.arange(len(values) - WINDOW + 1) + WINDOW, np.convolve(values, mean, mode="valid"), label=precision
        )
    right.set(xlabel="step", ylabel="loss", title=f"Losses, means over {WINDOW} steps")
    right.legend()
    figure.savefig(path)


def main() -> None:
    """Train in all precisions, or draw what was written before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="steps (default: 3000)")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no step after this long")
    parser.add_argument("--losses", type=Path, required=True, help="JSON file with what was measured")
    parser.add_argument("--figure", type=Path, help="do not train, but draw --losses here")
    options = parser.parse_args()
    if options.figure is None:
        until, context = time.time() + options.seconds, multiprocessing.get_context("spawn")
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            encoded = Path(folder) / "latents.pt"
            torch.save(latents(), encoded)
            torch.cuda.empty_cache()
            outputs = {precision: Path(folder) / f"{precision}.json" for precision in PRECISIONS}
            processes = [
                context.Process(target=train, args=(precision, encoded, options.steps, until, output))
                for precision, output in outputs.items()
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            found = {name: json.loads(path.read_text()) for name, path in outputs.items() if path.exists()}
        files.write_json(options.losses, {"machine": machine.about(), "loss, gradient norm, loss scale": found})
    read: dict[str, Any] = json.loads(options.losses.read_text(encoding="utf-8"))["loss, gradient norm, loss scale"]
    losses = {precision: np.array([step[0] for step in values]) for precision, values in read.items()}
    for precision, distance in sorted(distances(losses).items()):
        print(
            precision, {step: f"{distance[step - WINDOW]:.2e}" for step in range(WINDOW, len(distance) + WINDOW, 300)}
        )
    if options.figure is not None:
        draw(losses, options.figure)


if __name__ == "__main__":
    main()
