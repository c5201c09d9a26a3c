"""Whole evaluations through TensorFlow, on a small graph with random weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from dsr.base import files
from dsr.base.errors import UserError
from dsr.commands.evaluate import main as evaluate_command
from dsr.config.specs import EvaluateSpec, content
from dsr.data.images import open_images
from dsr.data.prepare import write_reference
from dsr.evaluation import precision_recall
from dsr.evaluation.evaluate import Job, evaluate
from dsr.evaluation.inception import InceptionGraph
from tests.configuration import configuration
from tests.unit import tiny_encoder

VECTORS = Path(__file__).parents[1] / "golden" / "evaluator"
GRAPH = VECTORS / "stub_inception_seed0.pb"


def run(monkeypatch: pytest.MonkeyPatch, *flags: str, **arguments: object) -> dict[str, object]:
    line = [str(part) for name, value in arguments.items() for part in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["evaluate", *flags, *line])
    evaluate_command()
    return files.read_json(Path(str(arguments["output"])))


def test_evaluation_reproduces_recorded_scores_and_uses_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with np.load(VECTORS / "e2e_small_images.npz") as recorded:
        np.savez(tmp_path / "samples.npz", recorded["sample"])
        np.savez_compressed(tmp_path / "reference.npz", recorded["ref"])
        scores = {key: float(recorded[key]) for key in ("fid", "sfid", "inception_score", "precision", "recall")}
    arguments = {
        "samples": tmp_path / "samples.npz",
        "reference": tmp_path / "reference.npz",
        "graph": GRAPH,
        "cache": tmp_path / "cache",
        "output": tmp_path / "metrics.json",
    }
    caplog.set_level("INFO")
    first = run(monkeypatch, **arguments)
    # 50 and 70 images against 2048 features: the official root of a singular product is off by up to 3e-5.
    assert {key: first[key] for key in scores} == pytest.approx(scores, rel=1e-4)
    assert first["images"] == 70
    assert first["samples"]["sha256"] == files.sha256(tmp_path / "samples.npz")
    assert first["reference"]["statistics"] == "computed from the images"
    assert first["protocol"] == {"neighbours": 3, "split": 5000, "float16_blocks": "1 of 1"}
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(kept) == 2
    assert ": from " not in caplog.text
    assert "FID says little" in caplog.text

    caplog.clear()
    again = run(monkeypatch, **arguments)
    assert {key: again[key] for key in scores} == {key: first[key] for key in scores}
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == kept
    assert "activations: from" in caplog.text

    run(monkeypatch, "--keep", **arguments)
    assert len(list((tmp_path / "cache").iterdir())) == 4
    # Other references need neither the network nor the samples' neighbours any more.
    monkeypatch.setattr(InceptionGraph, "activations", None)
    monkeypatch.setattr(precision_recall, "radii", None)
    assert run(monkeypatch, "--keep", **arguments)["fid"] == first["fid"]

    drawn = configuration().sample("dit-siglip2b", "unguided", 0, images=71)
    files.write_json(tmp_path / "samples.json", {"spec": content(drawn)})
    for samples, message in (
        (drawn, "70 images, expected 71"),
        (drawn.model_copy(update={"steps": 9}), "samples.json was made with other settings than"),
    ):
        spec = EvaluateSpec(samples=samples).model_dump_json()
        with pytest.raises(SystemExit):
            run(monkeypatch, **arguments | {"spec": spec, "output": tmp_path / "none.json"})
        assert message in caplog.text
    assert not (tmp_path / "none.json").exists()


def test_stored_statistics_stand_for_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(VECTORS / "e2e_small_pool.npz") as features:
        pooled = features["sample"].astype(np.float64)
    with np.load(VECTORS / "e2e_small_images.npz") as recorded:
        np.savez(tmp_path / "samples.npz", recorded["sample"])
        moments = {"mu": pooled.mean(axis=0), "sigma": 0.25 * np.eye(2048, dtype=np.float32)}
        np.savez(tmp_path / "reference.npz", recorded["ref"], **moments)
    found = run(
        monkeypatch,
        samples=tmp_path / "samples.npz",
        reference=tmp_path / "reference.npz",
        graph=GRAPH,
        output=tmp_path / "metrics.json",
    )
    deviations = np.linalg.svd((pooled - pooled.mean(axis=0)) / np.sqrt(69), compute_uv=False)
    assert found["fid"] == pytest.approx(np.square(deviations).sum() + 0.25 * 2048 - 2 * 0.5 * deviations.sum())
    assert found["reference"]["statistics"] == "stored (float64, float32)"
    assert found["reference"]["spatial_statistics"] == "computed from the images"
    assert found["recall"] == pytest.approx(0.96)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "graph.pb"
    for given in (b"no graph", b""):
        wrong.write_bytes(given)
        with pytest.raises(UserError, match="is not the evaluator's Inception graph"):
            InceptionGraph(wrong)


def test_unequal_numbers_of_files_are_refused_before_anything_is_read() -> None:
    one, two = (Path("a.npz"),), (Path("a.json"), Path("b.json"))
    with pytest.raises(UserError, match="expected as many of each"):
        evaluate(Job(samples=one, reference=Path("r.npz"), graph=Path("g.pb"), output=two))


def test_a_reference_holds_prepared_images(tmp_path: Path) -> None:
    index = tiny_encoder.write_images(tmp_path, 9)
    pixels = np.stack([open_images(index).read(number) for number in range(9)])
    given = index, tmp_path / "all.npz"
    write_reference(*given)
    with np.load(tmp_path / "all.npz") as written:
        np.testing.assert_array_equal(written["arr_0"], pixels)

    chosen = []
    for _ in range(2):
        write_reference(*given, count=4)
        with np.load(tmp_path / "all.npz") as written:
            chosen.append([int(np.nonzero((pixels == image).all(axis=(1, 2, 3)))[0][0]) for image in written["arr_0"]])
    assert chosen[0] == chosen[1] == sorted(set(chosen[0]))
    assert len(chosen[0]) == 4

    with pytest.raises(UserError, match="holds 9 images"):
        write_reference(*given, count=10)
