"""Precision and Recall from few pairs: what is left out never matters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from dsr.evaluation import coarse, near, neighbours, whole
from dsr.evaluation.coarse import Balls, Coarse, InSingle
from dsr.evaluation.fine import Bounded
from dsr.evaluation.half import to_half
from dsr.evaluation.near import Radii
from dsr.evaluation.neighbours import Points
from dsr.evaluation.parallel import spread
from dsr.evaluation.whole import Grid, InWhole

KINDS = [
    "signed",
    "positive",
    "clusters",
    "repeated",
    "one cluster",
    "outliers",
    "constant columns",
    "decaying spectrum",
    "few values",
    "on a line",
]


def draw(kind: str, count: int, width: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    points = generator.standard_normal((count, width)) + 0.5
    if kind == "positive":
        points = np.abs(points)
    elif kind == "clusters":
        points = np.random.default_rng(9).standard_normal((9, width))[generator.integers(0, 9, count)] + points / 20
    elif kind == "repeated":
        points = points[generator.integers(0, count // 4, count)]
    elif kind == "one cluster":
        points = 1 + points / 1000
    elif kind == "outliers":
        points[::37] *= 15
        points[5, :2] = 60
    elif kind == "constant columns":
        points[:, ::2] = [0.1, 2.0, 7.0][seed % 3]
    elif kind == "decaying spectrum":
        points = np.abs(points * np.arange(1, width + 1) ** -1.0 * 3)
    elif kind == "few values":
        points = np.abs(np.round(points))
        points[:, 0] += 1
    elif kind == "on a line":
        points = np.outer(np.round(points[:, 0] * 4), np.ones(width)) + 9
    return points.astype(np.float32)


def on_a_grid(points: np.ndarray) -> np.ndarray:
    """Round features so that their products have no rounding error, and the order of sums changes nothing."""
    return np.round(points * 32).astype(np.float32) / 32


@pytest.fixture(params=["whole numbers", "float32"])
def kind_of_products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "float32":
        monkeypatch.setattr(near, "whole_product", lambda: None)
    elif whole.whole_product() is None:
        pytest.skip("no products of whole numbers here")
    return str(request.param)


def scores(sets: list[Points], k: int) -> Iterator[np.ndarray]:
    """Radii of both sets and memberships by `near`, in float16 and then in float32."""
    radii = [near.radii(points, k) for points in sets]
    found = near.precision_recall(*sets, *radii)
    for name in ("half", "single"):
        memberships = getattr(found, name)
        yield from (getattr(of, name) for of in radii)
        yield from (memberships.inside_sample, memberships.inside_reference, memberships.half_blocks)


def all_pairs(sets: list[Points], k: int) -> Iterator[np.ndarray]:
    """The same by `neighbours`."""
    for half in (True, False):
        points = [Points(of.single, half=half) for of in sets]
        radii = [neighbours.radii(of, k) for of in points]
        yield from radii
        found = neighbours.precision_recall(*points, *radii)
        yield from (found.inside_sample, found.inside_reference, found.half_blocks)


@pytest.mark.usefixtures("kind_of_products")
@pytest.mark.parametrize(("tile", "k"), [(1000, 3), (60, 1), (16, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_near_pairs_are_all_that_matters(monkeypatch: pytest.MonkeyPatch, kind: str, tile: int, k: int) -> None:
    monkeypatch.setattr(neighbours, "TILE", tile)
    monkeypatch.setattr(near, "CROWDED", 10**6)
    sets = [Points(on_a_grid(draw(kind, count, 24, seed)), half=True) for seed, count in enumerate((230, 301))]
    for found, expected in zip(scores(sets, k), all_pairs(sets, k), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("kind_of_products")
@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_those_of_products_rounded_once(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(neighbours, "TILE", 50)
    monkeypatch.setattr(near, "CROWDED", 10**6)
    sets = [Points(draw(kind, count, 70, seed), half=True) for seed, count in enumerate((430, 333))]

    def squared(left: Points, right: Points, half: bool) -> np.ndarray:
        """Distances by exact products, with each step after them rounded."""

        def rounded(values: np.ndarray) -> np.ndarray:
            return to_half(values.astype(np.float32)) if half else values.astype(np.float32)

        (u, norms), (v, others) = ((to_half(of.single) if half else of.single, of.rounded_norms if half else of.single_norms)
                                   for of in (left, right))  # fmt: skip
        products = rounded((u.astype(np.float64) @ v.astype(np.float64).T).astype(np.float32))
        return np.maximum(rounded(rounded(norms[:, None] - 2 * products) + others), 0)

    found = list(scores(sets, 3))
    for half, (left, right, inside_sample, inside_reference, _) in zip(
        (True, False), (found[:5], found[5:]), strict=True
    ):
        radii = [np.sort(squared(of, of, half), axis=1)[:, 3] for of in sets]
        np.testing.assert_array_equal(left, radii[0])
        np.testing.assert_array_equal(right, radii[1])
        across = squared(*sets, half)
        np.testing.assert_array_equal(inside_sample, (across <= radii[0][:, None]).any(axis=0))
        np.testing.assert_array_equal(inside_reference, (across <= radii[1]).any(axis=1))


@pytest.mark.usefixtures("kind_of_products")
@pytest.mark.parametrize("count", [4, 5, 7, 121, 122, 123, 124])
def test_sets_of_any_size(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(neighbours, "TILE", 10)
    sets = [Points(on_a_grid(draw("positive", size, 8, seed)), half=True) for seed, size in enumerate((count, 4))]
    for found, expected in zip(scores(sets, 3), all_pairs(sets, 3), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("kind_of_products")
def test_equal_sets_are_inside_each_other() -> None:
    points = [Points(draw("positive", 90, 33, 0), half=True) for _ in range(2)]
    found = near.precision_recall(*points, *(near.radii(of, 3) for of in points))
    assert found.half.precision == found.half.recall == found.single.precision == found.single.recall == 1


@pytest.mark.parametrize("crowded", [0, 3, 250])
def test_points_that_are_too_close_together_are_left_to_all_pairs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, crowded: int
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(near, "CROWDED", crowded)
    points = Points(on_a_grid(draw("clusters", 300, 24, 0)), half=True)
    found = near.radii(points, 3)
    assert ("all distances are computed in both precisions" in caplog.text) == (crowded < 250)
    np.testing.assert_array_equal(found.half, neighbours.radii(points, 3))
    np.testing.assert_array_equal(found.single, neighbours.radii(Points(points.single, half=False), 3))


@pytest.mark.parametrize("scale", [0.01, 60.0])
def test_what_float16_cannot_hold_is_left_to_all_pairs(scale: float) -> None:
    sets = [Points(on_a_grid(draw("positive", 40, 24, seed)) * np.float32(scale), half=True) for seed in range(2)]
    for found, expected in zip(scores(sets, 3), all_pairs(sets, 3), strict=True):
        np.testing.assert_array_equal(found, expected)


def exact_distances(left: Points, right: Points) -> np.ndarray:
    return np.square(left.single.astype(np.float64)[:, None] - right.single).sum(axis=-1)


def rough_distances(kind_of_products: str, left: Points, right: Points) -> tuple[Coarse, np.ndarray]:
    """All rough distances, in the order of the sets."""
    product = whole.whole_product()
    rough = InSingle(left, right) if kind_of_products == "float32" or product is None else InWhole(left, right, product)
    found = np.full((left.count, right.count), np.nan)
    for place in rough.places():
        part = rough.rectangle(*place)
        squared = part.rows.offset[:, None] + part.columns.offset - part.weight * part.numbers.astype(np.float64)
        found[np.ix_(part.rows.points, part.columns.points)] = squared
    return rough, found


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_rough_distances_are_as_wrong_as_they_say(
    monkeypatch: pytest.MonkeyPatch, kind_of_products: str, kind: str, same: bool
) -> None:
    monkeypatch.setattr(neighbours, "TILE", 20)
    left = Points(draw(kind, 190, 300, 0), half=True)
    right = left if same else Points(draw(kind, 90, 300, 1) + np.float32(0.3), half=True)
    rough, found = rough_distances(kind_of_products, left, right)
    assert (np.abs(found - exact_distances(left, right)) <= rough.left_errors[:, None] + rough.right_errors).all()


def test_rough_distances_exclude_nearly_all_pairs() -> None:
    if whole.whole_product() is None:
        pytest.skip("no products of whole numbers here")
    points = Points(draw("positive", 900, 500, 0), half=True)
    rough, found = rough_distances("whole numbers", points, points)
    radii = near.radii(points, 3)
    assert (found - 2 * rough.left_errors.max() <= radii.single[:, None]).mean() < 0.05


@pytest.mark.parametrize("reach", [-1.0, 0.0, 5.0, 1e30, np.inf])
def test_no_pair_within_a_ball_is_missed(kind_of_products: str, reach: float) -> None:
    left, right = Points(draw("outliers", 140, 30, 0), half=True), Points(draw("outliers", 150, 30, 1), half=True)
    rough, _ = rough_distances(kind_of_products, left, right)
    squared = exact_distances(left, right)
    own = [Balls(np.where(np.arange(of.count) % 3 == 0, reach, 30.0), np.full(of.count, 2.0)) for of in (left, right)]
    inside = (squared <= own[0].reach[:, None] + 2) | (squared <= own[1].reach + 2)
    found = np.zeros_like(inside)
    for place in rough.places():
        pairs = rough.rectangle(*place).within(*own)
        assert not found[pairs.left, pairs.right].any()
        found[pairs.left, pairs.right] = True
    assert found[inside].all()
    assert np.isfinite(reach) <= (not found.all())


def test_a_set_of_pairs_is_split_without_loss(monkeypatch: pytest.MonkeyPatch, kind_of_products: str) -> None:
    monkeypatch.setattr(neighbours, "TILE", 5)
    points = Points(draw("signed", 203, 8, 0), half=True)
    rough, _ = rough_distances(kind_of_products, points, points)
    seen = np.zeros((203, 203), int)
    for part, other in rough.places_above_diagonal():
        seen[part, other] += 1
    for part in rough.parts(coarse.LOW):
        seen[part, part] += 1
    assert (np.triu(seen) == np.triu(np.ones_like(seen))).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "one cluster"])
def test_rounding_moves_no_distance_by_more_than_its_bound(kind: str) -> None:
    points = Points(draw(kind, 200, 64, 0), half=True)
    bounded = Bounded(points, signed=near.is_signed(points))
    everything, exact = slice(0, 200), exact_distances(points, points)
    half, single = (neighbours.distances(points, points, everything, everything, half=flag) for flag in (True, False))
    below, above, error = (of[:, None] + of for of in (bounded.below, bounded.above, bounded.error))
    assert (np.abs(single - exact) <= error).all()
    assert (exact - half <= below).all()
    assert (half - exact <= above).all()
    assert (np.abs(half - exact) > below / 20).any()


def test_a_grid_moves_its_values_little() -> None:
    values = np.abs(np.random.default_rng(0).standard_normal((50, 100))).astype(np.float32)
    grid = Grid.fit(values, 0)
    assert (np.abs(values - grid.step * grid.numbers(values)) <= grid.step * 0.501)[values < 3].all()
    values[0, 0] = 1000  # which shall not make the grid coarse for all others
    assert Grid.fit(values, 0).step < 0.1
    assert Grid.fit(np.full((2, 3), 5, np.float32), 0.25).step == 0.25


def test_products_that_overflow_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturated(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Pairs of products added in 16 bits, as older processors do."""
        products = rows[:, None].astype(np.int32) * columns.T
        sums = (products[..., ::2] + products[..., 1::2]).clip(-(2**15), 2**15 - 1)
        return sums.sum(axis=-1, dtype=np.int32)

    assert not whole.is_exact(saturated)
    assert whole.is_exact(lambda rows, columns: rows.astype(np.int32) @ columns.astype(np.int32))
    for wrong in (saturated, None):
        whole.whole_product.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(whole, "_onednn_product", lambda tf, wrong=wrong: wrong or tf.raw_ops.NoSuchOp)
            assert whole.whole_product() is None
    whole.whole_product.cache_clear()


def test_radii_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from threadpoolctl import threadpool_limits

    monkeypatch.setattr(neighbours, "TILE", 30)
    points = Points(draw("positive", 700, 40, 0), half=True)
    found: list[Radii] = []
    for threads in (1, 4):
        with threadpool_limits(threads):
            found.append(near.radii(points, 3))
    np.testing.assert_array_equal(found[0].half, found[1].half)
    np.testing.assert_array_equal(found[0].single, found[1].single)


def test_spread_keeps_the_order_and_stops_at_an_error() -> None:
    assert list(spread(lambda item: item**2, range(50))) == [item**2 for item in range(50)]
    assert list(spread(str, [])) == []
    done: list[int] = []

    def fail(item: int) -> int:
        done.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    with pytest.raises(ValueError, match="three"):
        list(spread(fail, range(10_000)))
    assert len(done) < 10_000
