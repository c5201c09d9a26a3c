from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from dsr.accel.device import round_matmul_weights
from dsr.base import files, tensors
from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.base.randomness import balanced_labels
from dsr.config.execution import Execution
from dsr.config.sampling import Guidance
from dsr.config.specs import SampleSpec
from dsr.data.npz import read_images
from dsr.denoiser.dit import build_denoiser, load_denoiser
from dsr.encoder.autoencoder import build_decoder
from dsr.encoder.statistics import LatentStatistics
from dsr.flow import Flow
from dsr.sampling.generate import LARGEST, Job, Shards, generate, split
from dsr.sampling.sampler import Sampler, acts, guided, trajectory

CPU = torch.device("cpu")
ONE = World(rank=0, size=1, device=CPU)
FLOW = Flow(shift=6.928203230275509)
IMAGES, SHARDS = 48, 16


def tiny_spec(**entries: Any) -> SampleSpec:
    encoder = {"family": "siglip2", "hub": "tiny", "revision": "main", "input_size": 16, "patch_size": 4, "width": 8}
    encoder |= {"neurons": "released", "statistics": "computed"}
    decoder = {"hidden_size": 8, "depth": 1, "num_heads": 1, "intermediate_size": 16}
    denoiser = {"kind": "dit-dh", "hidden_size": [16, 24], "depth": [2, 1], "num_heads": [2, 2]}
    denoiser |= {"class_dropout": entries.pop("class_dropout", 0.1)}
    spec = {
        "autoencoder": {"encoder": encoder, "ttr_options": None, "decoder": decoder, "image_size": 16},
        "model": {"denoiser": denoiser, "registers": 4, "channels": 8, "grid": 4, "classes": 3},
        "flow": {"shift_dim": 196608},
        "images": IMAGES,
        "steps": 12,
        "precision": "fp32",
        "guidance": {"scale": 2.0, "interval": [0.2, 0.95]},
        "seed": 3,
    }
    return SampleSpec.model_validate_json(json.dumps(spec | entries))


def write_weights(path: Path, seed: int) -> Path:
    """Write a denoiser whose every parameter is off its initial value."""
    torch.manual_seed(seed)
    model = build_denoiser(tiny_spec().model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    save_file(model.state_dict(), path, metadata={"row": "tiny", "epoch": "7"})
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Input files of a job."""
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def write_inputs(folder: Path) -> dict[str, Path]:
    """Write denoiser, decoder and statistics."""
    weights = write_weights(folder / "ema.safetensors", seed=0)
    decoder = build_decoder(tiny_spec().autoencoder)
    save_file(decoder.state_dict(), folder / "decoder.safetensors")
    statistics = LatentStatistics((8, 4, 4))
    statistics.update(torch.randn(32, 8, 4, 4))
    statistics.save(folder / "statistics.safetensors")
    return {
        "weights": weights,
        "statistics": folder / "statistics.safetensors",
        "decoder": folder / "decoder.safetensors",
    }


def tiny_job(inputs: dict[str, Path], folder: Path, **options: Any) -> Job:
    files = {"shards": folder / "shards", "output": folder / "samples.npz", **inputs}
    execution = Execution(**({"sample_batch": options.pop("batch")} if "batch" in options else {}))
    return Job(**{"spec": tiny_spec(), "execution": execution, **files, **options})


# transformers imports TensorFlow where it is installed, which takes seconds and is of no use here.
ENVIRONMENT = {**os.environ, "USE_TF": "0"}


def command_line(job: Job, *launcher: str) -> list[str]:
    launch = launcher or ("-m",)
    arguments = [sys.executable, *launch, "dsr.commands.sample"]
    arguments += ["--spec", job.spec.model_dump_json(), "--execution", job.execution.model_dump_json()]
    for name in ("weights", "statistics", "decoder", "shards", "output"):
        arguments += [f"--{name}", str(getattr(job, name))]
    return arguments


def images_of(job: Job) -> np.ndarray:
    return np.concatenate(list(read_images(job.output)))


@pytest.fixture(scope="module")
def uninterrupted(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = tiny_job(inputs, tmp_path_factory.mktemp("uninterrupted"))
    generate(job, ONE)
    return job


def same(first: np.ndarray, second: np.ndarray) -> bool:
    """Equal up to rounding."""
    return bool(np.abs(first.astype(int) - second.astype(int)).max() <= 1)


# The solver


class Recorder:
    """A predictor that notes what it is asked; it predicts the label, and half of it for the null label 9."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.labels: list[list[int]] = []

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.times.append(t[0].item())
        self.labels.append(y.tolist())
        return torch.where(y == 9, 0.5, y.float()).view(-1, 1, 1, 1).expand_as(x)


def solve(model: Any, guidance: Guidance, steps: int = 50) -> list[Tensor]:
    noise, labels = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2])
    return list(trajectory(model, FLOW, noise, labels, null_label=9, steps=steps, guidance=guidance))


def test_a_constant_prediction_is_where_the_path_ends() -> None:
    model = Recorder()
    states = solve(model, Guidance())
    assert len(states) == 50
    assert model.times == FLOW.time_grid(50)[:-1].tolist()
    torch.testing.assert_close(states[-1][:, 0, 0, 0], torch.tensor([1.0, 2.0]), rtol=1e-5, atol=1e-5)
    assert states[-1].dtype == torch.float32


def test_guidance_scale_one_is_a_single_unguided_forward() -> None:
    model = Recorder()
    states = solve(model, Guidance(scale=1.0, interval=(0.0, 1.0)))
    assert all(labels == [1, 2] for labels in model.labels)
    assert torch.equal(states[-1], solve(Recorder(), Guidance())[-1])


def test_the_null_forward_happens_inside_the_interval_only() -> None:
    model = Recorder()
    solve(model, Guidance(scale=1.5, interval=(0.3, 0.9)))
    assert all(
        len(labels) == (4 if 0.3 <= t <= 0.9 else 2) for t, labels in zip(model.times, model.labels, strict=True)
    )
    assert {len(labels) for labels in model.labels} == {2, 4}


def test_the_interval_is_closed_and_judged_in_single_precision() -> None:
    times = torch.tensor([0.0999, 0.1, 0.5, 0.9, 0.9001])
    guidance = Guidance(scale=2.0, interval=(0.1, 0.9))
    assert acts(times, guidance).tolist() == [False, True, True, True, False]
    prediction = guided(Recorder(), torch.zeros(5, 3, 4, 4), times, torch.full((5,), 2), 9, guidance)
    assert prediction[:, 0, 0, 0].tolist() == [2.0, 3.5, 3.5, 3.5, 2.0]


# Labels and shards


def test_labels_are_balanced_and_the_released_ones() -> None:
    labels = balanced_labels(1000, 50000, 0)
    assert torch.equal(labels.bincount(), torch.full((1000,), 50))
    digest = hashlib.sha256(labels.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest == "9d528c8f04aedc9afa9e79af3f1ff39f23ff974d7c67f3a0b1105815eaac5248"
    assert not torch.equal(labels, balanced_labels(1000, 50000, 1))


@pytest.mark.parametrize("images", [1, 5, 48, 1000, 50000, 50001])
def test_shards_hold_every_image_once(images: int) -> None:
    parts = split(images)
    assert [number for part in parts for number in part] == list(range(images))
    assert max(map(len, parts)) <= LARGEST


def test_shards_of_another_origin_or_content_are_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    shards = Shards(tmp_path, {"weights": "a", "specification": "b"}, IMAGES, (4, 4, 3))
    for number in range(4):
        shards.write(number, pixels)
    assert shards.verify_or_delete(0)
    assert np.array_equal(shards.read(0), pixels)
    assert not Shards(tmp_path, {"weights": "x", "specification": "b"}, IMAGES, (4, 4, 3)).verify_or_delete(0)
    assert "was sampled with another weights" in caplog.text
    path = shards.path(1)
    path.write_bytes(path.read_bytes()[:-1])
    content = bytearray(shards.path(2).read_bytes())
    content[-1] ^= 1
    shards.path(2).write_bytes(content)
    assert [shards.verify_or_delete(number) for number in range(5)] == [False, False, False, True, False]
    assert caplog.text.count("is damaged") == 2
    assert not Shards(tmp_path, {"weights": "a", "specification": "b"}, IMAGES, (8, 8, 3)).verify_or_delete(3)
    assert list(tmp_path.iterdir()) == []


# Whole jobs


def test_the_published_images_are_those_of_their_numbers(uninterrupted: Job, inputs: dict[str, Path]) -> None:
    images = images_of(uninterrupted)
    assert (images.shape, images.dtype) == ((IMAGES, 16, 16, 3), np.uint8)
    assert len(np.unique(images.reshape(IMAGES, -1), axis=0)) == IMAGES
    sampler = Sampler(tiny_spec(), **inputs, device=CPU)
    assert same(sampler.start([41, 7, 8])(), images[[41, 7, 8]])
    assert not uninterrupted.shards.exists()


def test_the_first_images_stand_in_tensorboard_at_the_step_of_the_weights(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    weights = tmp_path / "ema.safetensors"
    tensors.write(weights, tensors.read(inputs["weights"]), {"step": 30})
    generate(tiny_job({**inputs, "weights": weights}, tmp_path, board=tmp_path / "board"), ONE)
    assert [one.step for one in EventAccumulator(str(tmp_path / "board")).Reload().Images("samples")] == [30]


def test_the_file_beside_the_images_says_where_the_images_come_from(uninterrupted: Job) -> None:
    about = files.read_json(uninterrupted.output.with_suffix(".json"))
    assert about["weights"] == {"sha256": files.sha256(uninterrupted.weights), "row": "tiny", "epoch": "7"}
    assert (about["images"], about["seed"], about["device"]) == (IMAGES, 3, "cpu")
    assert SampleSpec.model_validate_json(json.dumps(about["spec"])) == uninterrupted.spec


def test_weights_of_other_settings_are_refused(inputs: dict[str, Path]) -> None:
    spec = tiny_spec(weights={"artifact": "dit"})
    with pytest.raises(UserError, match=r"ema.safetensors was made with other .*artifact: None -> dit"):
        Sampler(spec, **inputs, device=CPU)


def test_a_killed_job_goes_on_with_another_number_of_processes(
    uninterrupted: Job, inputs: dict[str, Path], tmp_path: Path
) -> None:
    job = tiny_job(inputs, tmp_path, batch=1)
    with subprocess.Popen(command_line(job), stderr=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        while not list(job.shards.glob("shard-*")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM
    kept = {path: path.stat().st_mtime_ns for path in job.shards.glob("shard-*")}
    assert 0 < len(kept) < SHARDS
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    log = subprocess.run(
        command_line(job, *torchrun), capture_output=True, text=True, check=True, env=ENVIRONMENT
    ).stderr
    assert f"{SHARDS - len(kept)} of {SHARDS} shards are to be made by 2 processes" in log
    assert same(images_of(job), images_of(uninterrupted))


def test_shards_of_other_weights_are_not_used(
    uninterrupted: Job, inputs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tiny_job(inputs | {"weights": write_weights(tmp_path / "other.safetensors", seed=1)}, tmp_path)
    shards = Shards(other.shards, other.origin(CPU), IMAGES, (16, 16, 3))
    sampler = Sampler(other.spec, weights=other.weights, statistics=other.statistics, decoder=other.decoder, device=CPU)
    stale = sampler.start(shards.parts[0])()
    shards.write(0, stale)
    (other.shards / ".shard-00001.safetensors.abc").touch()
    job = dataclasses.replace(other, weights=inputs["weights"])
    with caplog.at_level(logging.INFO):
        generate(job, ONE)
    assert "was sampled with another weights; removed" in caplog.text
    assert "is left over from another job" in caplog.text
    assert same(images_of(job), images_of(uninterrupted))
    assert not same(images_of(job)[:3], stale)


def test_guidance_without_a_null_label_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"guidance.scale 2.0: .* has no null label"):
        generate(tiny_job(inputs, tmp_path, spec=tiny_spec(class_dropout=0.0)), ONE)


def test_images_that_are_no_numbers_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(inputs["weights"])
    weights["final_layer.linear.bias"][0] = torch.nan
    save_file(weights, tmp_path / "ema.safetensors")
    sampler = Sampler(tiny_spec(), **(inputs | {"weights": tmp_path / "ema.safetensors"}), device=CPU)
    with pytest.raises(UserError, match="images 4 to 6 are not finite numbers"):
        sampler.start(range(4, 7))()


def test_rounding_weights_ahead_is_what_autocast_does(inputs: dict[str, Path]) -> None:
    model = load_denoiser(tiny_spec().model, inputs["weights"], CPU)
    x, t, y = torch.randn(3, 8, 4, 4), torch.tensor([0.1, 0.5, 1.0]), torch.tensor([0, 1, 3])
    with torch.autocast("cpu", torch.bfloat16):
        at_every_forward = model(x, t, y)
        round_matmul_weights(model, torch.bfloat16)
        assert torch.equal(model(x, t, y), at_every_forward)
