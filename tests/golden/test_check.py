"""The recorded vectors agree, and the checker can fail."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent


Check = Callable[[Path], tuple[int, list[dict[str, Any]]]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run the checker here, where its large packages are imported once; returns its exit code and its outcomes."""
    monkeypatch.syspath_prepend(HERE)
    checker = importlib.import_module("check")

    def run(folder: Path) -> tuple[int, list[dict[str, Any]]]:
        monkeypatch.setattr(sys, "argv", ["check.py", str(folder), "--json"])
        capsys.readouterr()
        code: int = checker.main()
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize(("folder", "files"), [(HERE, 22), (HERE / "evaluator", 30)])
def test_all_vectors_agree(check: Check, folder: Path, files: int) -> None:
    code, outcomes = check(folder)
    assert [outcome for outcome in outcomes if not outcome["passed"]] == []
    assert len(outcomes) == files
    assert code == 0


def test_the_checker_fails_where_it_must(check: Check, tmp_path: Path) -> None:
    with np.load(HERE / "lightning_dit_plain.npz") as file:
        output, weight = file["out/out"].copy(), file["param/blocks.0.attn.qkv.weight"].copy()
    output.flat[5] += 1e-3 * np.abs(output).max()
    weight.flat[7] += 0.05
    with np.load(HERE / "evaluator/fid_regular.npz") as file:
        fid = file["fid"] * (1 + 1e-4)
    with np.load(HERE / "siglip_plain.npz") as file:
        meta = json.loads(str(file["meta"]))
        keys = [key for key in file.files if key.startswith("out/")]
    unknown = np.array(json.dumps({**meta, "case": "never_heard_of"}))

    cases: dict[str, tuple[str, dict[str, np.ndarray | None]]] = {
        "output": ("lightning_dit_plain.npz", {"out/out": output}),
        "fid_output": ("evaluator/fid_regular.npz", {"fid": fid}),
        "parameter": ("lightning_dit_plain.npz", {"param/blocks.0.attn.qkv.weight": weight}),
        "unknown": ("siglip_plain.npz", {"meta": unknown}),
        "nothing": ("siglip_plain.npz", dict.fromkeys(keys)),
        "extra": ("siglip_plain.npz", {"out/not_computed": np.zeros(3, np.float32)}),
    }
    for name, (source, change) in cases.items():
        with np.load(HERE / source) as file:
            arrays = {key: file[key] for key in file.files} | change
        np.savez(tmp_path / f"{name}.npz", **{key: value for key, value in arrays.items() if value is not None})
    code, outcomes = check(tmp_path)
    problems = {Path(outcome["file"]).stem: outcome for outcome in outcomes}
    assert code == 1
    assert not any(outcome["passed"] for outcome in outcomes)
    assert len(outcomes) == len(cases)
    assert "out: 1 of" in problems["output"]["problem"]
    assert "fid: 1 of" in problems["fid_output"]["problem"]
    assert "values differ" in problems["parameter"]["problem"]
    assert problems["unknown"]["problem"] == "unknown case"
    assert "no outputs" in problems["nothing"]["problem"]
    assert "not_computed: not computed" in problems["extra"]["problem"]


def test_an_empty_folder_is_no_success(check: Check, tmp_path: Path) -> None:
    assert check(tmp_path) == (1, [])
