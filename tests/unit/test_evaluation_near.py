"""Precision and Recall from few pairs: what is left out never matters."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from dsr.base.errors import UserError
from dsr.evaluation import int8, near, neighbours, rough
from dsr.evaluation.half import to_half
from dsr.evaluation.near import Radii
from dsr.evaluation.neighbours import Points
from dsr.evaluation.pairs import Balls, Bounded
from dsr.evaluation.parallel import spread
from dsr.evaluation.rough import Grid, Rough

KINDS = [
    "signed",
    "positive",
    "clusters",
    "repeated",
    "one cluster",
    "outliers",
    "constant columns",
    "decaying spectrum",
    "heavy tails",
    "few values",
    "on a line",
]
WITHOUT_ROUNDING = ["few values", "on a line"]


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
    elif kind == "heavy tails":
        points = np.abs(points) ** 3 + 0.3
    elif kind == "few values":
        points = np.abs(np.round(points))
        points[:, 0] += 1
    elif kind == "on a line":
        points = np.outer(np.round(points[:, 0] * 4), np.ones(width)) + 25
    in_range = np.sqrt(14_000 / np.square(points).sum(axis=1).max())
    return (points * min(1, in_range)).astype(np.float32)


@pytest.fixture(params=["bytes", "float32"])
def kind_of_products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "float32":
        monkeypatch.setattr(int8, "product", lambda width: None)
    elif int8.product(24) is None:
        pytest.skip("no products of bytes here")
    return str(request.param)


def scores(sets: list[Points], k: int) -> Iterator[np.ndarray]:
    """Radii of both sets and memberships by `near`, in float16 and then in float32."""
    return with_radii(sets, [near.radii(points, k) for points in sets])


def with_radii(sets: list[Points], radii: list[Radii]) -> Iterator[np.ndarray]:
    """Radii, and memberships by `near` that follow from them, in float16 and then in float32."""
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
    sets = [Points(draw(kind, count, 24, seed), half=True) for seed, count in enumerate((230, 301))]
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

        (u, norms), (v, others) = (
            (to_half(of.single), of.rounded_norms) if half else (of.single, of.single_norms) for of in (left, right)
        )
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
@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize(("count", "k"), [(2, 1), (4, 3), (5, 3), (23, 22), (121, 3), (121, 25), (124, 3)])
def test_sets_of_any_size(monkeypatch: pytest.MonkeyPatch, count: int, k: int, width: int) -> None:
    monkeypatch.setattr(neighbours, "TILE", 10)
    monkeypatch.setattr(near, "CROWDED", 10**6)
    sizes = enumerate((count, k + 1))
    sets = [Points(draw("positive", size, width, seed) + 2, half=True) for seed, size in sizes]
    for found, expected in zip(scores(sets, k), all_pairs(sets, k), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("kind_of_products")
def test_one_point_may_be_tested_but_has_no_neighbours() -> None:
    one, others = (Points(draw("positive", count, 8, 0) + 1, half=True) for count in (1, 9))
    with pytest.raises(UserError, match="too few"):
        near.radii(one, 1)
    radii = [Radii(np.full(of.count, 3, np.float32), np.full(of.count, 2, np.float32)) for of in (one, others)]
    found, expected = near.precision_recall(one, others, *radii), neighbours.precision_recall
    for name, half in (("half", True), ("single", False)):
        sets = [Points(of.single, half=half) for of in (one, others)]
        wanted = expected(*sets, *(getattr(of, name) for of in radii))
        np.testing.assert_array_equal(getattr(found, name).inside_sample, wanted.inside_sample)
        np.testing.assert_array_equal(getattr(found, name).inside_reference, wanted.inside_reference)


@pytest.mark.usefixtures("kind_of_products")
def test_equal_sets_are_inside_each_other() -> None:
    points = [Points(draw("positive", 90, 33, 0), half=True) for _ in range(2)]
    found = near.precision_recall(*points, *(near.radii(of, 3) for of in points))
    assert found.half.precision == found.half.recall == found.single.precision == found.single.recall == 1


@pytest.mark.parametrize("kind", ["clusters", "repeated", "positive"])
@pytest.mark.parametrize(("radii", "memberships"), [(0, 0), (0, 500), (500, 0), (5, 5), (20, 20), (60, 60), (120, 120)])
def test_points_that_are_too_close_together_are_left_to_all_pairs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str, radii: int, memberships: int
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(neighbours, "TILE", 30)
    sets = [Points(draw(kind, count, 24, seed), half=True) for seed, count in enumerate((250, 300))]
    monkeypatch.setattr(near, "CROWDED", radii)
    found = [near.radii(points, 3) for points in sets]
    # In between it depends on the points.
    if radii in (0, 500):
        assert ("all their distances are computed in both precisions" in caplog.text) == (radii == 0)
    monkeypatch.setattr(near, "CROWDED", memberships)
    results = list(with_radii(sets, found))
    if memberships in (0, 500):
        assert ("all distances are computed in both precisions" in caplog.text) == (memberships == 0)
    for result, expected in zip(results, all_pairs(sets, 3), strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("scale", [0.01, 60.0])
def test_what_float16_cannot_hold_is_left_to_all_pairs(scale: float) -> None:
    sets = [Points(draw("positive", 40, 24, seed) * np.float32(scale), half=True) for seed in range(2)]
    for found, expected in zip(scores(sets, 3), all_pairs(sets, 3), strict=True):
        np.testing.assert_array_equal(found, expected)


def exact_distances(left: Points, right: Points) -> np.ndarray:
    return np.square(left.single.astype(np.float64)[:, None] - right.single).sum(axis=-1)


def all_rough(found: Rough) -> np.ndarray:
    """Rough distances of all pairs."""
    squared = np.full((len(found.left.offset), len(found.right.offset)), np.nan)
    for rows, columns in found.places(of_one_set=False):
        product = found.weight * found.product(rows, columns).astype(np.float64)
        squared[rows, columns] = found.left.offset[rows, None] + found.right.offset[columns] - product
    return squared


@pytest.mark.usefixtures("kind_of_products")
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_rough_distances_are_as_wrong_as_they_say(monkeypatch: pytest.MonkeyPatch, kind: str, same: bool) -> None:
    monkeypatch.setattr(neighbours, "TILE", 20)
    left = Points(draw(kind, 190, 300, 0), half=True)
    right = left if same else Points(draw(kind, 90, 300, 1) + np.float32(0.3), half=True)
    found = rough.rough_distances(left, right)
    wrong, bound = all_rough(found) - exact_distances(left, right), found.left.error[:, None] + found.right.error
    assert (np.abs(wrong) <= bound).all()
    assert kind in WITHOUT_ROUNDING or (np.abs(wrong) > bound / 500).any()


def test_rough_distances_exclude_nearly_all_pairs() -> None:
    if int8.product(500) is None:
        pytest.skip("no products of bytes here")
    points = Points(draw("positive", 900, 500, 0), half=True)
    found = rough.rough_distances(points, points)
    radii = near.radii(points, 3)
    assert (all_rough(found) - 2 * np.median(found.left.error) <= radii.single[:, None]).mean() < 0.05


@pytest.mark.usefixtures("kind_of_products")
@pytest.mark.parametrize("reach", [-1.0, 0.0, 5.0, 1e30, np.inf])
def test_no_pair_within_a_ball_is_missed(monkeypatch: pytest.MonkeyPatch, reach: float) -> None:
    monkeypatch.setattr(neighbours, "TILE", 30)
    monkeypatch.setattr(rough, "STRIP", 7)
    left, right = Points(draw("outliers", 140, 30, 0), half=True), Points(draw("outliers", 150, 30, 1), half=True)
    distances = rough.rough_distances(left, right)
    squared = exact_distances(left, right)
    own = [Balls(np.where(np.arange(of.count) % 3 == 0, reach, 30.0), np.full(of.count, 2.0)) for of in (left, right)]
    inside = (squared <= own[0].reach[:, None] + 2) | (squared <= own[1].reach + 2)
    found = np.zeros_like(inside)
    for place in distances.places(of_one_set=False):
        some = distances.near(*place, *own)
        assert not found[some.left, some.right].any()
        assert (np.abs(some.squared - squared[some.left, some.right]) <= some.squared - distances.least(some)).all()
        found[some.left, some.right] = True
    assert found[inside].all()
    assert np.isfinite(reach) <= (not found.all())


@pytest.mark.usefixtures("kind_of_products")
def test_places_hold_every_pair_of_a_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "TILE", 5)
    points = Points(draw("signed", 203, 8, 0), half=True)
    places = rough.rough_distances(points, points).places
    seen = np.zeros((2, 203, 203), int)
    for flag in (False, True):
        for rows, columns in places(of_one_set=flag):
            seen[int(flag), rows, columns] += 1
    assert (seen[0] == 1).all()
    assert (np.triu(seen[1]) == np.triu(np.ones_like(seen[1]))).all()


@pytest.mark.usefixtures("kind_of_products")
def test_first_bounds_are_of_the_roughly_nearest_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "TILE", 30)
    points = Points(draw("positive", 60, 100, 0), half=True)
    distances = rough.rough_distances(points, points)
    found = distances.nearest(slice(30, 60), 4)
    squared = exact_distances(points, points)
    np.testing.assert_array_equal(found.left, np.arange(30, 60).repeat(4))
    assert (np.diff(np.sort(found.right.reshape(30, 4))) > 0).all()
    farthest = squared[found.left, found.right].reshape(30, 4).max(axis=1)
    assert (farthest <= np.sort(squared[30:60, 30:60])[:, 3] + 4 * distances.left.error.max()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_moves_no_distance_by_more_than_its_bound(kind: str) -> None:
    points = Points(draw(kind, 200, 64, 0), half=True)
    bounded = Bounded(points, signed=near._is_signed(points))
    everything, exact = slice(0, 200), exact_distances(points, points)
    half, single = (neighbours.distances(points, points, everything, everything, half=flag) for flag in (True, False))
    above, error = (of[:, None] + of for of in (bounded.above, bounded.error))
    balls = Balls.around(bounded, np.zeros(200))
    below = balls.reach[:, None] + balls.slack
    assert (np.abs(single - exact) <= error).all()
    assert (exact - half <= below).all()
    assert (half - exact <= above).all()
    assert kind in WITHOUT_ROUNDING or (np.abs(half - exact) > below / 20).any()


def test_a_grid_moves_its_values_little() -> None:
    values = np.abs(np.random.default_rng(0).standard_normal((190, 1000))).astype(np.float32)
    centre = np.zeros(1000, np.float32)
    grid = Grid.fit((Points(values, half=False),), centre)
    assert (np.abs(values - grid.step * grid.numbers(values)) <= grid.step * 0.501)[values < 3].all()
    values[0, 0] = 1000  # which shall not make the grid coarse for all others
    assert Grid.fit((Points(values, half=False),), centre).step < 0.1
    assert Grid.between(5, 5, 0.25).step == 0.25


def test_products_that_overflow_are_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def saturated(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Pairs of products added in 16 bits, as older processors do."""
        products = rows[:, None].astype(np.int32) * columns.T
        sums = (products[..., ::2] + products[..., 1::2]).clip(-(2**15), 2**15 - 1)
        return sums.sum(axis=-1).astype(np.float32)

    caplog.set_level("INFO")
    assert not int8.is_right(saturated, 24)
    assert int8.is_right(lambda rows, columns: rows.astype(np.float32) @ columns.astype(np.float32), 24)
    points = Points(draw("positive", 40, 24, 0), half=True)
    expected = near.radii(points, 3)
    for wrong, why in ((saturated, "too few bits"), (None, "AttributeError")):
        int8.product.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(int8, "_onednn_product", lambda tf, wrong=wrong: wrong or tf.raw_ops.NoSuchOp)
            found = near.radii(points, 3)
        assert why in caplog.text
        np.testing.assert_array_equal(found.half, expected.half)
        np.testing.assert_array_equal(found.single, expected.single)
    int8.product.cache_clear()
    assert int8.product(int8.WIDEST + 1) is None


def test_radii_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
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
        if item > 3:
            # Without it, threads could finish everything before the caller sees the error.
            time.sleep(0.05)
        return item

    with threadpool_limits(2), pytest.raises(ValueError, match="three"):
        list(spread(fail, range(1000)))
    assert len(done) < 1000
