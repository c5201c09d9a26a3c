"""Checkpoints written beside training: what is on disk, and when an error is heard of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dsr.training import checkpoint
from dsr.training.background import Writer
from dsr.training.checkpoint import TrainState


def state(step: int, value: torch.Tensor) -> TrainState:
    return TrainState(
        step=step,
        model={"weight": value},
        averages={"0.9": {"weight": value}},
        optimizer={"state": {0: {"step": torch.tensor(float(step)), "exp_avg": value}}, "param_groups": [{"lr": 1.0}]},
        recipe={"hash": "x"},
        versions={"torch": "y"},
    )


def test_what_is_written_is_the_state_as_it_was_when_it_was_handed_over(tmp_path: Path) -> None:
    value = torch.zeros(1000)
    with Writer(tmp_path) as writer:
        for step in range(1, 4):
            value.fill_(step)
            writer.save(state(step, value))
            value.fill_(-1.0)
    assert checkpoint.state_steps(tmp_path) == [3, 2]
    for step in (2, 3):
        saved = checkpoint.load(checkpoint.state_path(tmp_path, step))
        expected = torch.full((1000,), float(step))
        assert torch.equal(saved.model["weight"], expected)
        assert torch.equal(saved.averages["0.9"]["weight"], expected)
        assert torch.equal(saved.optimizer["state"][0]["exp_avg"], expected)
        assert saved.optimizer["param_groups"] == [{"lr": 1.0}]


def test_leaving_waits_for_the_disk_even_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with Writer(tmp_path) as writer:
            writer.save(state(7, torch.ones(10)))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert checkpoint.is_intact(checkpoint.state_path(tmp_path, 7))


def test_an_error_of_the_disk_is_raised_where_training_waits(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "file" / "run")
    (tmp_path / "file").write_text("in the way")
    writer.save(state(1, torch.ones(10)))
    with pytest.raises(OSError, match="file"):
        writer.finish()
    writer.finish()
