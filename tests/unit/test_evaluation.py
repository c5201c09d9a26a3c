"""The metrics on plain arrays, and whole evaluations through TensorFlow, on a small graph with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsr.base import files
from dsr.base.errors import UserError
from dsr.commands import evaluate as command
from dsr.config.specs import EvaluateSpec, content
from dsr.data.images import open_images
from dsr.data.prepare import write_reference
from dsr.evaluation import frechet, precision_recall
from dsr.evaluation.evaluate import Job, cached, evaluate
from dsr.evaluation.frechet import Moments
from dsr.evaluation.inception import InceptionGraph
from dsr.evaluation.precision_recall import Points, half_blocks
from tests.configuration import configuration

VECTORS = Path(__file__).parents[1] / "golden/evaluator"
GRAPH = VECTORS / "stub_inception_seed0.pb"


def normal(count: int, width: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, width)) * scale).astype(np.float32)


# ------------------------------------------------------------------------------------------------- Frechet distance


@pytest.mark.parametrize(
    ("mean", "sigma", "message"),
    [
        (np.array([0.0, np.nan]), np.eye(2), "NaN or infinite"),
        (np.zeros(2), np.array([[1.0, 0.5], [0.1, 1.0]]), "not symmetric"),
        (np.zeros(2), -np.eye(2), "eigenvalue -1, expected none below 0"),
        (np.zeros(2), np.array([[1.0, 1.1], [1.1, 1.0]]), "eigenvalue -0.1"),
    ],
)
def test_wrong_stored_moments_are_refused(mean: np.ndarray, sigma: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=f"reference.npz: .*{message}"):
        frechet.from_moments(Moments(mean, sigma, "reference.npz"))


def test_rounding_makes_no_covariance_wrong() -> None:
    singular = np.cov(normal(40, 200), rowvar=False)
    rounded = singular.astype(np.float32)
    assert np.linalg.eigvalsh(rounded.astype(np.float64))[0] < 0
    exact, stored = (frechet.from_moments(Moments(np.zeros(200), sigma, "test")) for sigma in (singular, rounded))
    assert frechet.distance(exact, stored) == pytest.approx(0, abs=1e-4 * exact.trace)


def test_features_that_have_no_covariance_are_refused() -> None:
    with pytest.raises(UserError, match="NaN or infinite"):
        frechet.fit(np.full((9, 4), np.nan, np.float32))


# --------------------------------------------------------------------------------------------- Precision and Recall


@pytest.mark.parametrize(("tile", "block", "k"), [(19, 10_000, 3), (16, 64, 1)])
def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch, tile: int, block: int, k: int) -> None:
    found = []
    for size in (1000, tile):
        monkeypatch.setattr(precision_recall, "TILE", size)
        points = [Points(normal(130, 8), block), Points(normal(171, 8, seed=1, scale=1.2), block)]
        found.append(precision_recall.members(*points, *(precision_recall.radii(one, k) for one in points)))
    (half, single, _), (tiled_half, tiled_single, _) = found
    np.testing.assert_array_equal(tiled_single.samples, single.samples)
    np.testing.assert_array_equal(tiled_single.references, single.references)
    assert (half.samples != tiled_half.samples).sum() + (half.references != tiled_half.references).sum() <= 6


def test_what_norms_do_not_decide_is_computed() -> None:
    # All squared norms fit in float16; distances do if vectors point the same way.
    points = np.full((4, 9), 60, np.float32)
    away = points * np.float32([[1], [1], [1], [-1]])
    assert [bool(half_blocks(Points(of), Points(of))[0, 0]) for of in (points, away)] == [True, False]


def test_too_few_or_wrong_points_are_refused() -> None:
    features = normal(9, 2)
    features[4, 1] = np.nan
    with pytest.raises(UserError, match="image 4"):
        Points(features)


def values(folder: Path, **identity: int) -> list[float]:
    """Return what is computed, or was kept."""
    arrays = {"value": np.random.default_rng().random(3)}
    return list(cached(folder, "kind", ["value"], identity, lambda: arrays)["value"])


def test_a_cache_that_cannot_be_written_or_read_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert len(values(tmp_path / "file/cache")) == 3
    assert "kind is not kept for the next evaluation" in caplog.text
    assert str(tmp_path / "file/cache") in caplog.text


@pytest.mark.parametrize("defect", ["cut off", "empty", "other arrays", "flipped"])
def test_a_damaged_cache_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, defect: str) -> None:
    lost = values(tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    flipped = content.replace(np.array(lost).tobytes(), bytes(24))
    path.write_bytes({"cut off": content[: len(content) // 2], "flipped": flipped}.get(defect, b""))
    if defect == "other arrays":
        np.savez(path, mean=np.arange(2.0))
    again = values(tmp_path)
    assert lost != again == values(tmp_path) != values(tmp_path, graph=2)
    assert caplog.text.count("kind is computed again") == 1
    assert str(path) in caplog.text


# ---------------------------------------------------------------------------------------------- whole evaluations


def evaluated(run_command: Callable[..., None], *flags: str, **arguments: Any) -> dict[str, Any]:
    run_command(command.main, *flags, graph=GRAPH, **arguments)
    found: dict[str, Any] = files.read_json(arguments["output"])
    return found


def test_evaluation_reproduces_recorded_scores_and_uses_its_cache(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    run_command: Callable[..., None],
) -> None:
    names = {"samples": "samples.npz", "reference": "reference.npz", "cache": "cache", "output": "metrics.json"}
    arguments = {name: tmp_path / file for name, file in names.items()}
    with np.load(VECTORS / "e2e_small_images.npz") as recorded:
        np.savez(arguments["samples"], recorded["sample"])
        np.savez_compressed(arguments["reference"], recorded["ref"])
        scores = {key: float(recorded[key]) for key in ("fid", "sfid", "inception_score", "precision", "recall")}
    caplog.set_level("INFO")
    first = evaluated(run_command, **arguments)
    # 50 and 70 images against 2048 features: the official root of a singular product is off by up to 3e-5.
    assert {key: first[key] for key in scores} == pytest.approx(scores, rel=1e-4)
    assert first["images"] == 70
    assert first["samples"]["sha256"] == files.sha256(arguments["samples"])
    assert first["reference"]["statistics"] == "computed from the images"
    assert first["protocol"] == {"neighbours": 3, "split": 5000, "float16_blocks": "1 of 1"}
    kept = {path.name: path.stat().st_mtime_ns for path in arguments["cache"].iterdir()}
    assert len(kept) == 2
    assert ": from " not in caplog.text
    assert "FID says little" in caplog.text

    again = evaluated(run_command, **arguments)
    assert {key: again[key] for key in scores} == {key: first[key] for key in scores}
    assert {path.name: path.stat().st_mtime_ns for path in arguments["cache"].iterdir()} == kept
    assert "activations: from" in caplog.text

    evaluated(run_command, "--keep", **arguments)
    assert len(list(arguments["cache"].iterdir())) == 4
    # Other references need neither the network nor the samples' neighbours any more.
    monkeypatch.setattr(InceptionGraph, "activations", None)
    monkeypatch.setattr(precision_recall, "radii", None)
    assert evaluated(run_command, "--keep", **arguments)["fid"] == first["fid"]

    drawn = configuration().sample("dit-siglip2b", "unguided", 0, images=71)
    files.write_json(tmp_path / "samples.json", {"spec": content(drawn)})
    for samples, message in (
        (drawn, "70 images, expected 71; was sampling cut short"),
        (drawn.model_copy(update={"steps": 9}), "samples.json was made with other settings than"),
    ):
        with pytest.raises(SystemExit):
            evaluated(run_command, **arguments | {"spec": EvaluateSpec(samples=samples), "output": tmp_path / "none"})
        assert message in caplog.text
    assert not (tmp_path / "none").exists()


def test_stored_statistics_stand_for_the_images(tmp_path: Path, run_command: Callable[..., None]) -> None:
    arguments = {name: tmp_path / f"{name}.npz" for name in ("samples", "reference", "output")}
    with np.load(VECTORS / "e2e_small_pool.npz") as features:
        pooled = features["sample"].astype(np.float64)
    with np.load(VECTORS / "e2e_small_images.npz") as recorded:
        np.savez(arguments["samples"], recorded["sample"])
        moments = {"mu": pooled.mean(axis=0), "sigma": 0.25 * np.eye(2048, dtype=np.float32)}
        np.savez(arguments["reference"], recorded["ref"], **moments)
    found = evaluated(run_command, **arguments)
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


def test_a_reference_holds_prepared_images(six_images: Path, tmp_path: Path) -> None:
    images, chosen = open_images(six_images), []
    pixels = np.stack([images.read(number) for number in range(6)])
    for count in (None, 4, 4):
        write_reference(six_images, tmp_path / "some.npz", count=count)
        with np.load(tmp_path / "some.npz") as written:
            chosen.append([int((pixels == image).all(axis=(1, 2, 3)).argmax()) for image in written["arr_0"]])
    assert chosen[0] == [*range(6)]
    assert chosen[1] == chosen[2] == sorted(set(chosen[1]))
    assert len(chosen[1]) == 4
    with pytest.raises(UserError, match="holds 6 images"):
        write_reference(six_images, tmp_path / "some.npz", count=7)
