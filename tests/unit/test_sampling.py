"""Images that are drawn: guidance, shards, whole jobs; what a sweep chooses, and other moving averages."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dsr.accel.device import round_matmul_weights
from dsr.base import files, tensors
from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.commands.choose import choose
from dsr.config.execution import Execution
from dsr.config.sampling import Guidance, Sweep
from dsr.config.specs import SampleSpec, WeightsSpec, content
from dsr.data.npz import read_images
from dsr.denoiser.dit import load_denoiser
from dsr.sampling.generate import LARGEST, Job, Shards, generate, split
from dsr.sampling.sampler import Sampler
from dsr.training.checkpoint import publish, snapshot_path
from tests.processes import ended, start_ranks

from . import training_row
from .tiny_encoder import write_parts
from .training_row import ONE, moved, tiny_autoencoder

CPU = ONE.device
IMAGES, SHARDS = 48, 16


def tiny_spec(**entries: Any) -> SampleSpec:
    denoiser = {"kind": "dit-dh", "hidden_size": [16, 24], "depth": [2, 1], "num_heads": [2, 2]}
    denoiser |= {"class_dropout": entries.pop("class_dropout", 0.1)}
    spec = {
        "autoencoder": tiny_autoencoder().model_dump(mode="json"),
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
    save_file(moved(tiny_spec().model, seed).state_dict(), path, metadata={"row": "tiny", "epoch": "7"})
    return path


def write_inputs(folder: Path) -> dict[str, Path]:
    """Write denoiser, decoder and statistics of a job."""
    parts = write_parts(folder, tiny_spec().autoencoder, {0: (0,)})
    weights = write_weights(folder / "ema.safetensors", seed=0)
    return {"weights": weights, **{name: parts[name] for name in ("statistics", "decoder")}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def tiny_job(inputs: dict[str, Path], folder: Path, **options: Any) -> Job:
    files = {"shards": folder / "shards", "output": folder / "samples.npz", **inputs}
    execution = Execution(**({"sample_batch": options.pop("batch")} if "batch" in options else {}))
    return Job(**{"spec": tiny_spec(), "execution": execution, **files, **options})


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


# Shards


@pytest.mark.parametrize("images", [1, 48, 50001])
def test_shards_hold_every_image_once(images: int) -> None:
    parts = split(images)
    assert [number for part in parts for number in part] == list(range(images))
    assert max(map(len, parts)) <= LARGEST


# Whole jobs


def test_the_published_images_are_those_of_their_numbers_and_say_where_they_come_from(
    uninterrupted: Job, inputs: dict[str, Path]
) -> None:
    images = images_of(uninterrupted)
    assert (images.shape, images.dtype) == ((IMAGES, 16, 16, 3), np.uint8)
    assert len(np.unique(images.reshape(IMAGES, -1), axis=0)) == IMAGES
    sampler = Sampler(tiny_spec(), **inputs, device=CPU)
    assert same(sampler.start([41, 7, 8])(), images[[41, 7, 8]])
    assert not uninterrupted.shards.exists()
    about = files.read_json(uninterrupted.output.with_suffix(".json"))
    assert about["weights"] == {"sha256": files.sha256(uninterrupted.weights), "row": "tiny", "epoch": "7"}
    assert (about["images"], about["seed"], about["device"]) == (IMAGES, 3, "cpu")
    assert SampleSpec.model_validate_json(json.dumps(about["spec"])) == uninterrupted.spec


def test_the_first_images_stand_in_tensorboard_at_the_step_of_the_weights(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes seconds

    weights = tmp_path / "ema.safetensors"
    tensors.write(weights, tensors.read(inputs["weights"]), {"step": 30})
    generate(tiny_job({**inputs, "weights": weights}, tmp_path, board=tmp_path / "board"), ONE)
    assert [one.step for one in EventAccumulator(str(tmp_path / "board")).Reload().Images("samples")] == [30]


def _work(processes: World, job: Job, log: Path) -> None:
    """Be one of some processes that make the images."""
    logging.basicConfig(filename=log, level=logging.INFO)
    generate(job, processes)


def test_a_killed_job_goes_on_with_another_number_of_processes(
    uninterrupted: Job, inputs: dict[str, Path], tmp_path: Path
) -> None:
    job, log = tiny_job(inputs, tmp_path, batch=1), tmp_path / "log"
    (alone,) = start_ranks(_work, (job, log))
    while not list(job.shards.glob("shard-*")) and alone.exitcode is None:
        time.sleep(0.001)
    alone.kill()
    ended(alone)
    kept = len([*job.shards.glob("shard-*")])
    assert 0 < kept < SHARDS
    assert ended(*start_ranks(_work, (job, log), (job, log))) == {0}
    assert f"{SHARDS - kept} of {SHARDS} shards are to be made by 2 processes" in log.read_text()
    assert same(images_of(job), images_of(uninterrupted))


def test_shards_of_other_weights_and_damaged_ones_are_made_again(
    uninterrupted: Job, inputs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = tiny_job(inputs, tmp_path)
    other = dataclasses.replace(job, weights=write_weights(tmp_path / "other.safetensors", seed=1))
    stale = Sampler(other.spec, **(inputs | {"weights": other.weights}), device=CPU).start(range(3))()
    origins = (one.origin(one.drawn(), CPU, weights=one.weights) for one in (other, job))
    theirs, ours = (Shards(job.shards, origin, IMAGES, (16, 16, 3)) for origin in origins)
    theirs.write(0, stale)
    for number, images in ((1, stale), (2, stale), (3, stale[:, :8]), (SHARDS, stale)):
        ours.write(number, images)
    content = ours.path(2).read_bytes()
    ours.path(1).write_bytes(content[:-1])
    ours.path(2).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (job.shards / ".shard-00001.safetensors.abc").touch()
    with caplog.at_level(logging.INFO):
        generate(job, ONE)
    assert "was sampled with another weights; removed" in caplog.text
    assert caplog.text.count("is damaged") == 2
    assert caplog.text.count("which is not this shard") == 1
    assert caplog.text.count("is left over from another job") == 2
    assert same(images_of(job), images_of(uninterrupted))
    assert not same(images_of(job)[:3], stale)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_dropout": 0.0}, r"guidance.scale 2.0: .* has no null label"),
        ({"weights": {"artifact": "dit"}}, r"ema.safetensors was made with other .*artifact: None -> dit"),
    ],
)
def test_what_does_not_fit_the_weights_is_refused(
    inputs: dict[str, Path], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Sampler(tiny_spec(**change), **inputs, device=CPU)


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


# Other guidance, and other moving averages

SWEEP = Sweep(rows=("a",), images=10, scales=(1.5, 2.0), intervals=((0.0, 1.0), (0.0, 0.9)))


def scored(folder: Path, fids: dict[str, float], images: int = 10) -> tuple[Path, ...]:
    for name, fid in fids.items():
        guidance = content(SWEEP.candidates[name])
        found = {"fid": fid, "inception_score": 2.0, "images": images, "guidance": guidance}
        files.write_json(folder / f"{name}.json", found)
    return tuple(folder / f"{name}.json" for name in fids)


def test_the_lowest_fid_is_chosen_and_all_are_kept(tmp_path: Path) -> None:
    metrics = scored(tmp_path, {"w1.5-t0-1": 3.5, "w1.5-t0-0.9": 3.0, "w2-t0-1": 4.0, "w2-t0-0.9": 3.0})
    chosen, others = tmp_path / "guidance.json", tmp_path / "sweep.json"
    choose(SWEEP, metrics, chosen, others)
    assert Guidance.model_validate_json(chosen.read_text()) == Guidance(scale=1.5, interval=(0.0, 0.9))
    assert [attempt["name"] for attempt in files.read_json(others)] == [
        "w1.5-t0-0.9",
        "w2-t0-0.9",
        "w1.5-t0-1",
        "w2-t0-1",
    ]


def test_incomplete_or_unequal_sweeps_choose_nothing(tmp_path: Path) -> None:
    metrics = scored(tmp_path, dict.fromkeys(SWEEP.candidates, 3.0))
    with pytest.raises(UserError, match="3 metrics files of 4 candidates"):
        choose(SWEEP, metrics[:3], tmp_path / "guidance.json", tmp_path / "sweep.json")
    scored(tmp_path, {"w2-t0-1": 2.0}, images=20)
    with pytest.raises(UserError, match=r"w2-t0-1\.json: 20 images, expected sweep\.images \(10\)"):
        choose(SWEEP, metrics, tmp_path / "guidance.json", tmp_path / "sweep.json")
    scored(tmp_path, {"w2-t0-1": 2.0})
    others = SWEEP.model_copy(update={"scales": (1.5, 2.5)})
    with pytest.raises(UserError, match=r"w2-t0-1\.json was made with other settings .*\(scale: 2\.0 -> 2\.5\)"):
        choose(others, metrics, tmp_path / "guidance.json", tmp_path / "sweep.json")


def test_another_average_is_published_if_the_trainer_kept_it(tmp_path: Path) -> None:
    spec, output = training_row.tiny_spec(ema=[0.5, 0.9]), tmp_path / "ema-0.9.safetensors"
    with pytest.raises(UserError, match="restore the run directory, or train this milestone again"):
        publish(spec, 2, 0.9, tmp_path, output)
    made = WeightsSpec(train=spec, epoch=2, decay=0.9)
    tensors.write(snapshot_path(tmp_path, 2, 0.9), {"x": torch.arange(3.0)}, {"spec": content(made)})
    publish(spec, 2, 0.9, tmp_path, output)
    assert torch.equal(load_file(output)["x"], torch.arange(3.0))
    with pytest.raises(UserError, match=r"decay 0.8 is none of recipe.ema \(0.5, 0.9\)"):
        publish(spec, 2, 0.8, tmp_path, output)
