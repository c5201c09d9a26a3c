"""The recorded vectors agree, and the checker can fail."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture
def checker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The checker, as its command has it."""
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module("check")


@pytest.mark.parametrize(("folder", "files"), [(HERE, 22), (HERE / "evaluator", 30)])
def test_all_vectors_agree(checker: ModuleType, folder: Path, files: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert checker.main(folder) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.endswith(f"\n{files} passed, 0 failed\n")


def test_the_checker_fails_where_it_must(checker: ModuleType, tmp_path: Path) -> None:
    assert checker.main(tmp_path) == 1, "an empty folder is no success"
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

    cases: dict[str, tuple[str, dict[str, np.ndarray | None], str]] = {
        "output": ("lightning_dit_plain.npz", {"out/out": output}, "out: 1 of"),
        "fid_output": ("evaluator/fid_regular.npz", {"fid": fid}, "fid: 1 of"),
        "parameter": ("lightning_dit_plain.npz", {"param/blocks.0.attn.qkv.weight": weight}, "values differ"),
        "unknown": ("siglip_plain.npz", {"meta": unknown}, "unknown case"),
        "nothing": ("siglip_plain.npz", dict.fromkeys(keys), "no outputs"),
        "extra": ("siglip_plain.npz", {"out/not_computed": np.zeros(3, np.float32)}, "not_computed: not computed"),
    }
    for name, (source, change, _) in cases.items():
        with np.load(HERE / source) as file:
            arrays = {key: file[key] for key in file.files} | change
        np.savez(tmp_path / f"{name}.npz", **{key: value for key, value in arrays.items() if value is not None})
    outcomes = {Path(outcome.file).stem: outcome.problem for outcome in checker.check_folder(tmp_path)}
    assert outcomes.keys() == cases.keys()
    for name, (_, _, problem) in cases.items():
        assert problem in outcomes[name]
    assert checker.main(tmp_path) == 1
