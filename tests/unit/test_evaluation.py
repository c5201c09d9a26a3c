"""The metrics on plain arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dsr.base.errors import UserError
from dsr.evaluation import frechet, precision_recall
from dsr.evaluation.evaluate import cached
from dsr.evaluation.frechet import Moments
from dsr.evaluation.precision_recall import Points, half_blocks


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


def direct(reference: np.ndarray, sample: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Memberships by full distance matrices and full sorts in float64."""

    def squared(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.square(left[:, None].astype(np.float64) - right[None]).sum(axis=-1)

    radius, sample_radius = (np.sort(squared(points, points), axis=1)[:, k] for points in (reference, sample))
    across = squared(reference, sample)
    return (across <= radius[:, None]).any(axis=0), (across <= sample_radius).any(axis=1)


@pytest.mark.parametrize(("tile", "block", "k"), [(1000, 10_000, 1), (19, 10_000, 3), (1000, 50, 1), (16, 64, 3)])
def test_tiles_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, tile: int, block: int, k: int) -> None:
    monkeypatch.setattr(precision_recall, "TILE", tile)
    reference, sample = normal(130, 8), normal(171, 8, seed=1, scale=1.2)
    left, right = Points(reference, block), Points(sample, block)
    radii = [precision_recall.radii(points, k) for points in (left, right)]
    half, single, _ = precision_recall.members(left, right, *radii)
    samples, references = direct(reference, sample, k)
    np.testing.assert_array_equal(single.samples, samples)
    np.testing.assert_array_equal(single.references, references)
    assert (half.samples != samples).sum() + (half.references != references).sum() <= 6


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


def values(folder: Path | None, **identity: int) -> list[float]:
    """Return what is computed, or was kept."""
    return list(
        cached(folder, "kind", ["value"], identity, lambda: {"value": np.random.default_rng().random(3)})["value"]
    )


def test_cache_computes_once_per_identity(tmp_path: Path) -> None:
    first = values(tmp_path / "cache", a=1)
    assert values(tmp_path / "cache", a=1) == first
    assert values(tmp_path / "cache", a=2) != first
    assert values(None, a=1) != first


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
    assert lost != again == values(tmp_path)
    assert caplog.text.count("kind is computed again") == 1
    assert str(path) in caplog.text
