"""States on disk and the lock of a run directory."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from pathlib import Path

import grimp
import pytest
import torch

from dsr.base.errors import UserError
from dsr.training import checkpoint
from dsr.training.checkpoint import TrainState
from dsr.training.process import exclusive


def state(step: int, value: torch.Tensor | None = None) -> TrainState:
    tensor = torch.full((64,), float(step)) if value is None else value
    optimizer = {"state": {0: {"step": torch.tensor(float(step)), "exp_avg": tensor}}, "param_groups": [{"lr": 1.0}]}
    return TrainState(step, {"w": tensor}, {"0.9": {"w": tensor}}, optimizer, {"spec": {"a": 1}}, {"torch": "2"})


def test_the_code_that_is_recorded_is_all_that_the_trainer_computes_with() -> None:
    imported = grimp.build_graph("dsr").find_upstream_modules("dsr.training.loop")
    paths = {Path(*name.split(".")[1:]).with_suffix(".py") for name in imported}
    others = {path for path in paths if not any(path.match(part) for part in checkpoint.COMPUTING)}
    assert {path.parts[0] for path in others} == {"base", "config"}


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 20, 3, 100):
        checkpoint.save(tmp_path, state(step))
    assert checkpoint.state_steps(tmp_path) == [100, 20]
    assert checkpoint.newest(tmp_path) == checkpoint.state_path(tmp_path, 100)


@pytest.mark.parametrize("damage", ["empty", "truncated", "one bit"])
def test_damage_is_noticed_and_the_state_before_taken(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = (checkpoint.save(tmp_path, state(step)) for step in (1, 2))
    content = bytearray(bad.read_bytes())
    position = content.find(torch.full((2,), 2.0).numpy().tobytes())
    content[position] ^= 1
    bad.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "one bit": content}[damage])
    assert checkpoint.newest(tmp_path) == good
    assert "state-00000002.pt is damaged" in caplog.text
    checkpoint.clean(tmp_path, 1)
    assert not bad.exists()


def test_damage_to_the_list_of_records_is_noticed_or_harmless(tmp_path: Path) -> None:
    good, bad = (checkpoint.save(tmp_path, state(step)) for step in (1, 2))
    content = bad.read_bytes()
    taken = []
    for position in range(content.index(b"PK\1\2"), len(content)):
        altered = bytearray(content)
        altered[position] ^= 1 << position % 8
        bad.write_bytes(altered)
        taken.append(checkpoint.newest(tmp_path))
        if taken[-1] == bad:
            assert torch.equal(checkpoint.load(bad).model["w"], torch.full((64,), 2.0))
    assert set(taken) == {good, bad}


def test_a_state_that_the_storage_withholds_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for step in (1, 2):
        checkpoint.save(tmp_path, state(step))
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.zipfile, "ZipFile", fail)
        with pytest.raises(UserError, match=r"state-00000002\.pt: cannot be read"):
            checkpoint.newest(tmp_path)
    assert checkpoint.newest(tmp_path) == checkpoint.state_path(tmp_path, 2)


def test_nothing_but_damaged_states_is_an_error_not_a_new_start(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    checkpoint.save(tmp_path, state(1)).write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"every saved state is damaged \(state-00000001\.pt\)"):
        checkpoint.newest(tmp_path)


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    kept = checkpoint.save(tmp_path, state(1))
    (tmp_path / ".state-00000002.pt.x1y2.pt").write_bytes(b"half")
    (tmp_path / ".ema-1-0.9.safetensors.x1y2.safetensors").write_bytes(b"half")
    checkpoint.clean(tmp_path, 1)
    assert list(tmp_path.iterdir()) == [kept]


def test_a_failed_write_leaves_the_states_alone(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    with pytest.raises(AttributeError):
        checkpoint.save(tmp_path, TrainState(2, {"w": lambda: None}, {}, {}, {}, {}))  # type: ignore[dict-item]
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000001.pt"]


def test_a_holder_on_another_host_counts_while_it_is_alive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lock, stopped = tmp_path / "lock", threading.Event()
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1}))

    def touch() -> None:
        while not stopped.wait(0.02):
            os.utime(lock)

    alive = threading.Thread(target=touch)
    alive.start()
    try:
        with pytest.raises(UserError, match="process 1 on host elsewhere"):
            exclusive(tmp_path, patience=2.0).__enter__()
    finally:
        stopped.set()
        alive.join()
    with caplog.at_level(logging.WARNING), exclusive(tmp_path, patience=0.2):
        assert "process 1 on host elsewhere is gone; taking over" in caplog.text
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert lock.read_text() == ""


# Written beside training


def test_what_is_written_is_the_state_as_it_was_when_it_was_handed_over(tmp_path: Path) -> None:
    value = torch.zeros(1000)
    with checkpoint.Writer(tmp_path) as writer:
        for step in range(1, 4):
            value.fill_(step)
            writer.save(state(step, value))
            value.fill_(-1.0)
    assert checkpoint.state_steps(tmp_path) == [3, 2]
    for step in (2, 3):
        saved = checkpoint.load(checkpoint.state_path(tmp_path, step))
        expected = torch.full((1000,), float(step))
        assert (saved.step, saved.recipe) == (step, {"spec": {"a": 1}})
        assert torch.equal(saved.model["w"], expected)
        assert torch.equal(saved.averages["0.9"]["w"], expected)
        assert torch.equal(saved.optimizer["state"][0]["exp_avg"], expected)
        assert saved.optimizer["param_groups"] == [{"lr": 1.0}]


def test_leaving_waits_for_the_disk_even_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with checkpoint.Writer(tmp_path) as writer:
            writer.save(state(7))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert checkpoint.is_intact(checkpoint.state_path(tmp_path, 7))


def test_an_error_of_the_disk_is_raised_where_training_waits(tmp_path: Path) -> None:
    writer = checkpoint.Writer(tmp_path / "file" / "run")
    (tmp_path / "file").write_text("in the way")
    writer.save(state(1))
    with pytest.raises(OSError, match="file"):
        writer.finish()
    writer.finish()
