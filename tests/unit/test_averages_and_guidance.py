"""What is sampled besides the reported set: other moving averages, and guidance settings that a sweep tries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dsr.base import tensors
from dsr.base.errors import UserError
from dsr.base.files import read_json, write_json
from dsr.commands.choose import choose
from dsr.config.sampling import Guidance, Sweep
from dsr.config.specs import WeightsSpec, content
from dsr.training.checkpoint import publish, snapshot_path

from .training_row import tiny_spec

SWEEP = Sweep(rows=("a",), images=10, scales=(1.5, 2.0), intervals=((0.0, 1.0), (0.0, 0.9)))


def scored(folder: Path, fids: dict[str, float], images: int = 10) -> tuple[Path, ...]:
    for name, fid in fids.items():
        guidance = content(SWEEP.candidates[name])
        found = {"fid": fid, "inception_score": 2.0, "images": images, "guidance": guidance}
        write_json(folder / f"{name}.json", found)
    return tuple(folder / f"{name}.json" for name in fids)


def test_a_sweep_is_every_scale_with_every_interval() -> None:
    assert list(SWEEP.candidates) == ["w1.5-t0-1", "w1.5-t0-0.9", "w2-t0-1", "w2-t0-0.9"]
    assert SWEEP.candidates["w2-t0-0.9"] == Guidance(scale=2.0, interval=(0.0, 0.9))


def test_the_lowest_fid_is_chosen_and_all_are_kept(tmp_path: Path) -> None:
    metrics = scored(tmp_path, {"w1.5-t0-1": 3.5, "w1.5-t0-0.9": 3.0, "w2-t0-1": 4.0, "w2-t0-0.9": 3.0})
    chosen, others = tmp_path / "guidance.json", tmp_path / "sweep.json"
    choose(SWEEP, metrics, chosen, others)
    assert Guidance.model_validate_json(chosen.read_text()) == Guidance(scale=1.5, interval=(0.0, 0.9))
    assert [attempt["name"] for attempt in read_json(others)] == ["w1.5-t0-0.9", "w2-t0-0.9", "w1.5-t0-1", "w2-t0-1"]
    assert read_json(others)[2]["fid"] == 3.5


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
    spec, output = tiny_spec(ema=[0.5, 0.9]), tmp_path / "ema-0.9.safetensors"
    with pytest.raises(UserError, match="restore the run directory, or train this milestone again"):
        publish(spec, 2, 0.9, tmp_path, output)
    made = WeightsSpec(train=spec, epoch=2, decay=0.9)
    tensors.write(snapshot_path(tmp_path, 2, 0.9), {"x": torch.arange(3.0)}, {"spec": content(made)})
    publish(spec, 2, 0.9, tmp_path, output)
    assert torch.equal(load_file(output)["x"], torch.arange(3.0))
    with pytest.raises(UserError, match=r"decay 0.8 is none of recipe.ema \(0.5, 0.9\)"):
        publish(spec, 2, 0.8, tmp_path, output)
