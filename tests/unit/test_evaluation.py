"""The metrics on plain arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dsr.base.errors import UserError
from dsr.evaluation import frechet, near, neighbours
from dsr.evaluation.cache import Cache
from dsr.evaluation.frechet import Gaussian, Moments
from dsr.evaluation.half import squared_norms, to_half, to_half_in_range
from dsr.evaluation.inception_score import inception_score
from dsr.evaluation.neighbours import Points, precision_recall, radii
from dsr.evaluation.selfcheck import check_frechet


def normal(count: int, width: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, width)) * scale).astype(np.float32)


# ------------------------------------------------------------------------------------------------- Frechet distance


@pytest.mark.parametrize(("count", "width"), [(300, 20), (20, 20), (5, 20), (2, 3)])
def test_equal_features_have_distance_zero(count: int, width: int) -> None:
    features = frechet.fit(normal(count, width))
    assert frechet.distance(features, features) == pytest.approx(0, abs=1e-12 * features.trace)


def test_distance_of_known_gaussians() -> None:
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))
    first, second = np.array([9.0, 4, 1, 1, 0, 0]), np.array([1.0, 1, 4, 0, 2, 0])
    one, two = (
        frechet.from_moments(Moments(np.full(6, mean), basis * values @ basis.T, "test"))
        for mean, values in ((0.0, first), (1.0, second))
    )
    assert frechet.distance(one, two) == pytest.approx(6 + np.square(np.sqrt(first) - np.sqrt(second)).sum(), rel=1e-13)


@pytest.mark.parametrize("defect", ["few rows", "constant column", "repeated rows", "nearly equal columns", "none"])
def test_singular_covariances_lose_no_digits(defect: str) -> None:
    x, y = normal(200, 12), normal(150, 12, seed=1, scale=2.0)
    if defect == "few rows":
        x = x[:7]
    elif defect == "constant column":
        x[:, 3] = 5
    elif defect == "repeated rows":
        x = np.concatenate([x[:8]] * 20)
    elif defect == "nearly equal columns":
        x[:, 1] = x[:, 0] * np.float32(1 + 1e-6)
    # An independent factor: the whole centred data, whatever its shape.
    factors = [
        (features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)) / np.sqrt(len(features) - 1)
        for features in (x, y)
    ]
    direct = frechet.distance(Gaussian(x.mean(axis=0), factors[0]), Gaussian(y.mean(axis=0), factors[1]))
    assert frechet.distance(frechet.fit(x), frechet.fit(y)) == pytest.approx(direct, rel=1e-12)


def test_the_mean_is_float32_and_the_covariance_numpys() -> None:
    features = normal(20_000, 3) + np.float32(100)
    fitted = frechet.fit(features)
    assert fitted.mean.dtype == np.float32
    np.testing.assert_array_equal(fitted.mean, features.mean(axis=0))
    np.testing.assert_allclose(frechet.covariance(features), np.cov(features, rowvar=False), rtol=1e-12, atol=1e-15)


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
    with pytest.raises(UserError, match="1 images are too few"):
        frechet.fit(normal(1, 4))
    with pytest.raises(UserError, match="NaN or infinite"):
        frechet.fit(np.full((9, 4), np.nan, np.float32))


def test_self_check_passes_here() -> None:
    assert check_frechet() < 1e-12


# -------------------------------------------------------------------------------------------------- Inception Score


def test_inception_score_of_confident_and_balanced_classes_is_their_number() -> None:
    features = np.repeat(np.eye(5, dtype=np.float32), 4, axis=0)
    assert inception_score(features, 1e4 * np.eye(5, dtype=np.float32)) == pytest.approx(5)


def test_inception_score_is_never_nan() -> None:
    weights = np.array([[1e30, -1e30, 0.0]], np.float32)
    assert inception_score(np.array([[1.0], [-1], [0]], np.float32), weights) > 1
    assert inception_score(np.full((4, 1), 1.0, np.float32), weights) == pytest.approx(1)


def test_inception_score_is_the_plain_mean_over_splits_in_file_order() -> None:
    features, weights = normal(11, 3), normal(3, 6, seed=1, scale=2.0)
    parts = [inception_score(features[start : start + 5], weights) for start in (0, 5, 10)]
    assert parts[2] == pytest.approx(1)
    assert inception_score(features, weights, split=5) == pytest.approx(np.mean(parts))


# --------------------------------------------------------------------------------------------- Precision and Recall


def direct(reference: np.ndarray, sample: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Memberships by full distance matrices and full sorts in float64."""

    def squared(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.square(left[:, None].astype(np.float64) - right[None]).sum(axis=-1)

    radius, sample_radius = (np.sort(squared(points, points), axis=1)[:, k] for points in (reference, sample))
    across = squared(reference, sample)
    return (across <= radius[:, None]).any(axis=0), (across <= sample_radius).any(axis=1)


def memberships(
    reference: np.ndarray, sample: np.ndarray, k: int, half: bool, block: int
) -> tuple[np.ndarray, np.ndarray]:
    left, right = Points(reference, half=half, block=block), Points(sample, half=half, block=block)
    found = precision_recall(left, right, radii(left, k), radii(right, k))
    assert found.precision == found.inside_sample.mean()
    assert found.recall == found.inside_reference.mean()
    return found.inside_sample, found.inside_reference


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("tile", "block"), [(1000, 10_000), (7, 10_000), (1000, 50), (16, 64)])
def test_tiles_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, tile: int, block: int, k: int) -> None:
    monkeypatch.setattr(neighbours, "TILE", tile)
    reference, sample = normal(130, 8), normal(171, 8, seed=1, scale=1.2)
    for found, expected in zip(
        memberships(reference, sample, k, half=False, block=block), direct(reference, sample, k), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_float16_blocks_fall_back_to_float32_one_by_one() -> None:
    reference, sample = normal(60, 16), normal(50, 16, seed=1)
    sample[45] = 100  # |x|^2 = 160000 is beyond float16
    left, right = Points(reference, half=True, block=20), Points(sample, half=True, block=20)
    assert neighbours.half_blocks(left, right).tolist() == [[True, True, False]] * 3
    assert neighbours.half_blocks(right, right).tolist() == [[True, True, False]] * 2 + [[False] * 3]
    assert neighbours.half_blocks(left, Points(sample, half=False, block=20)).sum() == 0
    found = memberships(reference, sample, 3, half=True, block=20)
    for flags, expected in zip(found, direct(reference, sample, 3), strict=True):
        assert (flags != expected).sum() <= 2


def test_equal_sets_are_inside_each_other() -> None:
    points = normal(40, 5)
    for half in (True, False):
        assert all(flags.all() for flags in memberships(points, points, 3, half, 10_000))


def test_fast_and_plain_rounding_agree() -> None:
    generator = np.random.default_rng(0)
    values = generator.standard_normal(100_000) * np.exp2(generator.integers(-30, 13, 100_000))
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    ties = (halves[1:] + halves[:-1]) / 2
    some = np.concatenate([values, halves, ties, -ties, ties * (1 + 2**-23), ties * (1 - 2**-23)]).astype(np.float32)
    expected = some.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(to_half(some), expected)
    to_half_in_range(some)
    np.testing.assert_array_equal(some, expected)


def test_what_is_too_large_for_float16_becomes_infinite() -> None:
    np.testing.assert_array_equal(
        to_half(np.array([65519, 65520, -1e9, np.nan], np.float32)), [65504, np.inf, -np.inf, np.nan]
    )
    rows = np.zeros((3, 40), np.float32)
    rows[0, 5], rows[1] = 256, 41  # a square, and a sum of squares
    np.testing.assert_array_equal(squared_norms(rows), [np.inf, np.inf, 0])


def test_too_few_or_wrong_points_are_refused() -> None:
    with pytest.raises(UserError, match="3 images are too few for 3 nearest neighbours"):
        near.radii(Points(normal(3, 2), half=True), 3)
    features = normal(9, 2)
    features[4, 1] = np.nan
    with pytest.raises(UserError, match="image 4"):
        Points(features, half=False)


def test_cache_computes_once_per_identity(tmp_path) -> None:
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"value": np.arange(3.0)}

    cache = Cache(tmp_path / "cache")
    for identity in ({"a": 1}, {"a": 1}, {"a": 2}):
        np.testing.assert_array_equal(cache.arrays("kind", ["value"], identity, compute)["value"], np.arange(3.0))
    assert len(calls) == 2
    Cache().arrays("kind", ["value"], {"a": 1}, compute)
    assert len(calls) == 3


@pytest.mark.parametrize("defect", ["cut off", "empty", "other arrays", "flipped"])
def test_a_damaged_cache_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, defect: str) -> None:
    def compute() -> dict[str, np.ndarray]:
        return {"value": np.arange(3.0)}

    cache = Cache(tmp_path)
    cache.arrays("kind", ["value"], {}, compute)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if defect == "other arrays":
        np.savez(path, mean=np.arange(2.0))
    elif defect == "flipped":
        content[content.index(np.arange(3.0).tobytes()) + 9] ^= 255
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2 if defect == "cut off" else 0])
    for _ in range(2):
        np.testing.assert_array_equal(cache.arrays("kind", ["value"], {}, compute)["value"], np.arange(3.0))
    assert caplog.text.count("kind is computed again") == 1
    assert str(path) in caplog.text
