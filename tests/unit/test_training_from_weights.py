"""Training that begins with weights of another training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from dsr.base import tensors
from dsr.base.errors import UserError
from dsr.base.files import read_record
from dsr.config.specs import StartSpec, TrainSpec
from dsr.denoiser.dit import build_denoiser
from dsr.training.loop import train
from dsr.training.start import Job, begin_from

from .training_row import ONE, differences, final_state, largest_gap, moved, tiny_job, tiny_spec

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
