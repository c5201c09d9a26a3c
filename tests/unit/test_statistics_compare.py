from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dsr.base import files
from dsr.base.errors import UserError
from dsr.commands.compare_statistics import main
from dsr.encoder.compare_statistics import compare
from tests.unit import tiny_encoder

SHAPE = (2, 4, 4)


def write(path: Path, mean: torch.Tensor, var: torch.Tensor) -> Path:
    save_file({"mean": mean, "var": var}, path)
    return path


def test_differences_are_in_released_deviations(tmp_path: Path) -> None:
    mean, var = torch.zeros(SHAPE), torch.full(SHAPE, 4.0)
    released = write(tmp_path / "released.safetensors", mean, var)
    mean[1, 2, 3] = -1.0
    var[0, 1, 2] = 16.0
    found = compare(released, write(tmp_path / "computed.safetensors", mean, var), SHAPE)
    assert found.means.max == pytest.approx(0.5, rel=1e-5)
    assert found.means.at == (1, 2, 3)
    assert found.means.mean == pytest.approx(0.5 / 32, rel=1e-5)
    assert found.deviations.max == pytest.approx(1.0, rel=1e-5)
    assert found.variances.max == pytest.approx(3.0, rel=1e-5)
    assert found.deviations.at == found.variances.at == (0, 1, 2)


def test_equal_statistics_do_not_differ_and_others_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "statistics.safetensors", torch.randn(SHAPE), torch.rand(SHAPE))
    found = compare(path, path, SHAPE)
    assert found.means.max == found.deviations.max == found.variances.max == 0.0
    with pytest.raises(UserError, match="for another encoder"):
        compare(path, path, (3, 4, 4))


def test_command_writes_both_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_encoder.spec()
    path = write(tmp_path / "statistics.safetensors", torch.randn(spec.latent_shape), torch.rand(spec.latent_shape))
    text = spec.model_dump_json(exclude={"decoder"})
    words = ["--spec", text, "--title", "tiny-none", "--released", str(path), "--computed", str(path)]
    words += ["--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    monkeypatch.setattr(sys, "argv", ["compare_statistics", *words])
    main()
    assert files.read_json(tmp_path / "out.json")["variances"]["max"] == 0.0
    assert (tmp_path / "out.md").read_text().startswith("# tiny-none: released and computed latent statistics")
