"""How training starts: in fp16 with what fits of it, in micro-batches that fit, or with weights of another training."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dsr.base import files, tensors
from dsr.base.distributed import World
from dsr.base.errors import UserError
from dsr.base.files import read_record
from dsr.config.specs import StartSpec, TrainSpec
from dsr.data.images import open_images
from dsr.denoiser.dit import build_denoiser
from dsr.encoder.autoencoder import load_autoencoder
from dsr.flow import Flow
from dsr.training import trials
from dsr.training.batches import MicroBatch, blank
from dsr.training.learner import Learner, first_loss_scale
from dsr.training.loop import train
from dsr.training.start import Job, begin_from
from tests.processes import ended, start_ranks

from .training_row import BATCH, ONE, STEPS, differences, final_state, largest_gap, moved, tiny_job, tiny_spec


def test_fp16_trains_on_cpus_in_float32_with_one_warning(
    row: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(tiny_job(row, tmp_path / "run-a", spec=tiny_spec(precision="fp16")), ONE)
    assert [message for message in caplog.messages if "fp16" in message] == [
        "fp16 is arithmetic of GPUs; computing in fp32 on this CPU instead"
    ]
    state, exact = final_state(tmp_path / "run-a"), final_state(finished)
    assert state["loss_scale"] == first_loss_scale(tiny_spec(precision="fp16").recipe) == 2.0**15
    for name in ("model", "averages", "optimizer"):
        assert differences(state[name], exact[name]) == [], "powers of two change no bit"


def test_an_overflow_is_taken_again_with_half_the_loss_scale_in_every_start(
    row: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, resumed = (tiny_job(row, tmp_path / run, spec=tiny_spec(precision="fp16"), minutes=0.0) for run in "ab")
    for job in (whole, resumed):
        assert not train(job, ONE)
        torch.save({**final_state(job.run_dir), "loss_scale": 2.0**127}, job.run_dir / "state-00000001.pt")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert train(dataclasses.replace(whole, minutes=None), ONE)
    assert "Step 2: the gradient overflowed; again, with a loss scale of" in caplog.text
    while not train(resumed, ONE):
        pass
    states = [final_state(job.run_dir) for job in (whole, resumed)]
    assert states[0]["loss_scale"] < 2.0**127
    assert differences(*states) == []
    for name in ("model", "averages"):
        assert differences(states[0][name], final_state(finished)[name]) == []


@pytest.mark.parametrize("factor", [1.0, 1e5])
def test_the_encoder_multiplies_in_float16_if_its_latents_stay_what_they_are(
    row: Path, caplog: pytest.LogCaptureFixture, factor: float
) -> None:
    spec, images = tiny_spec(precision="fp16"), open_images(row / "images" / "index.npz")
    paths = {"encoder": row / "encoder", "neurons": row / "neurons.json", "statistics": row / "statistics.safetensors"}
    autoencoder = load_autoencoder(spec.encoding, **paths, decoder=None)
    assert autoencoder.encoder is not None
    for name, parameter in autoencoder.encoder.named_parameters():
        if name.endswith("fc1.bias"):
            parameter.fill_(factor)
    trials.use_half_if_close(autoencoder, spec, images, ONE)
    assert autoencoder.in_half == (factor == 1.0)
    assert ("The encoder stays in TF32: float16 would change its latents by nan" in caplog.text) == (factor > 1)


def _overflow(processes: World, output: Path) -> None:
    """Be one of some processes that take a step in float16, which CPUs can be told to compute in, and overflow."""
    rank, size = processes.rank, processes.size
    spec = tiny_spec(precision="fp16")
    torch.manual_seed(0)
    x, noise, t = torch.randn(BATCH, 8, 4, 4), torch.randn(BATCH, 8, 4, 4), torch.rand(BATCH)
    model = build_denoiser(spec.model)
    for parameter in model.parameters():
        parameter.data.add_(0.02)
    learner = Learner(model, Flow.from_config(spec.flow), spec.recipe, processes, steps_per_epoch=STEPS)
    learner.precision = "fp16"
    learner.load(dataclasses.replace(learner.state({}), loss_scale=2.0**40))
    for _ in range(2):
        share = slice(rank, None, size)
        batch = MicroBatch(x[share], noise[share], t[share], torch.zeros(BATCH // size, dtype=torch.int64))
        result = learner.update([batch], stop=lambda: False)
    files.write_json(output / f"{size}-{rank}.json", [learner.state({}).loss_scale, result.loss, result.grad_norm])


def test_an_overflow_of_float16_lowers_the_loss_scale_of_all_processes(tmp_path: Path) -> None:
    for size in (1, 2):
        assert ended(*start_ranks(_overflow, *[(tmp_path,)] * size)) == {0}
    alone, first, second = (files.read_json(tmp_path / f"{name}.json") for name in ("1-0", "2-0", "2-1"))
    assert first == second
    # Gradients of weights are sums over a process's samples, so one that has all of them may overflow a step earlier.
    assert 1 < first[0] < 2.0**30
    assert alone[0] in (first[0], first[0] / 2)
    assert first[1:] == pytest.approx(alone[1:], rel=1e-3)


# Micro-batches where memory is short, with a denoiser that runs out of memory on demand

SPEC = tiny_spec()
ONE_GPU = World(rank=0, size=1, device=torch.device("cuda"))


def learner_that_fits(images: int) -> Learner:
    """Return a learner on the CPU whose forward pass has memory for so many images."""
    model = build_denoiser(SPEC.model)

    def allocate(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) > images:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(allocate)
    return Learner(model, Flow.from_config(SPEC.flow), SPEC.recipe, ONE, steps_per_epoch=STEPS)


@pytest.fixture
def resets(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """What PyTorch needs to be asked as if there were a GPU; resets of the peak memory."""
    devices: list[torch.device] = []
    monkeypatch.setattr(trials, "blank", lambda model, images, _: blank(model, images, ONE.device))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", devices.append)
    return devices


@pytest.mark.parametrize(("room", "taken", "tries"), [(8, 8, 1), (7, 4, 2), (1, 1, 4)])
def test_the_part_of_a_process_is_halved_until_it_fits(
    resets: list[torch.device], room: int, taken: int, tries: int
) -> None:
    learner = learner_that_fits(room)
    before = [parameter.clone() for parameter in learner.model.parameters()]
    share = trials.largest_share(ONE_GPU, BATCH, learner, SPEC.model)
    assert (share.micro_batch, len(share.parts)) == (taken, BATCH // taken)
    assert all(map(torch.equal, learner.model.parameters(), before))
    assert all(parameter.grad is None for parameter in learner.model.parameters())
    assert not learner.optimizer.state
    assert resets == [ONE_GPU.device] * tries, "a try is no part of the peak that training reports"


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (BATCH, "1 images at once do not fit; use GPUs with more memory"),
        (75, "75 images at once do not fit; set execution.micro_batch to 25, and run the same command again"),
    ],
)
@pytest.mark.usefixtures("resets")
def test_what_cannot_be_halved_any_more_is_an_error_on_a_gpu(batch: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trials.largest_share(ONE_GPU, batch, learner_that_fits(0), SPEC.model)
    assert trials.largest_share(ONE, BATCH, learner_that_fits(0), SPEC.model).micro_batch == BATCH, "nothing is tried"


# Weights of another training to begin with

ANEW = {"y_embedder.embedding_table.weight", "register_tokens", "register_pos_embed"}
ANEW |= {"feat_rope_incontext.freqs_cos", "feat_rope_incontext.freqs_sin"}


def weights(path: Path, start: StartSpec, seed: int = 1) -> Path:
    """Write weights as `start` describes them."""
    tensors.write(path, moved(start.model(tiny_spec().model), seed).state_dict(), {})
    return path


def from_weights(folder: Path, row: Path, classes: int, registers: int, **options: Any) -> Job:
    start = StartSpec(artifact="denoiser-own", classes=classes, registers=registers)
    spec = TrainSpec.model_validate({**tiny_spec().model_dump(), "start": start.model_dump()})
    given = weights(folder / "given.safetensors", start)
    return tiny_job(row, folder / "run", spec=spec, start=given, **options)


@pytest.mark.parametrize(("classes", "registers", "anew"), [(3, 4, set()), (5, 0, ANEW)])
def test_everything_is_taken_over_but_what_another_number_of_classes_or_registers_shapes(
    row: Path, tmp_path: Path, classes: int, registers: int, anew: set[str]
) -> None:
    job = from_weights(tmp_path, row, classes, registers)
    assert job.start is not None
    assert job.spec.start is not None
    model = build_denoiser(job.spec.model)
    drawn = {name: value.clone() for name, value in model.state_dict().items()}
    begin_from(model, job.spec.start, job.spec.model, job.start)
    given = tensors.read(job.start)
    assert {name for name, value in model.state_dict().items() if torch.equal(value, drawn[name])} >= anew
    for name, value in model.state_dict().items():
        assert name in anew or torch.equal(value, given[name]), name


def test_a_run_that_goes_on_equals_one_that_did_not_stop_and_records_its_beginning(row: Path, tmp_path: Path) -> None:
    one = from_weights(tmp_path, row, 5, 0, epoch=2)
    train(one, ONE)
    other = dataclasses.replace(one, run_dir=tmp_path / "other", output=tmp_path / "other.safetensors")
    train(dataclasses.replace(other, epoch=1, output=tmp_path / "first.safetensors"), ONE)
    train(dataclasses.replace(other, after=1), ONE)
    assert differences(final_state(one.run_dir), final_state(other.run_dir)) == []
    start = read_record(one.output)["spec"]["train"]["start"]
    assert start == {"artifact": "denoiser-own", "classes": 5, "registers": 0}
    weights(tmp_path / "given.safetensors", one.spec.start, seed=2)
    with pytest.raises(UserError, match=r"inputs\.start: "):
        train(dataclasses.replace(one, epoch=3), ONE)


def test_the_run_begins_with_the_weights(row: Path, tmp_path: Path) -> None:
    """At a learning rate that changes nothing, what is published is what it began with."""
    job = from_weights(tmp_path, row, 3, 4, epoch=1)
    assert job.start is not None
    spec = job.spec.model_copy(update={"recipe": tiny_spec(lr=1e-12, ema=[0.5]).recipe})
    train(dataclasses.replace(job, spec=spec), ONE)
    given, published = tensors.read(job.start), tensors.read(job.output)
    assert largest_gap(given, published) < 1e-6
    assert largest_gap(given, build_denoiser(spec.model).state_dict()) > 0.1


def test_weights_of_another_denoiser_are_refused_before_anything_is_written(row: Path, tmp_path: Path) -> None:
    job = from_weights(tmp_path, row, 5, 0)
    other = weights(tmp_path / "other.safetensors", StartSpec(artifact="denoiser-own", classes=7, registers=0))
    with pytest.raises(UserError, match=r"other\.safetensors.*y_embedder"):
        train(dataclasses.replace(job, start=other), ONE)
    with pytest.raises(UserError, match="--start: expected weights exactly where"):
        train(dataclasses.replace(job, start=None), ONE)
