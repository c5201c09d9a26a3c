"""Golden cases of the evaluator: recorded values of the official script, with TensorFlow on a CPU.

These files have no `meta`, `in/` and `out/` keys. What is checked is decided by their content, so files with other
sizes, seeds or names (with the same first part) work too. Where the official value is known not to be the truth, the
truth is computed here by another route than the project's; the official value is then kept as `recorded/...` with a
loose tolerance.
"""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path

import numpy as np

from dsr.evaluation import frechet, precision_recall
from dsr.evaluation.evaluate import ImageSet, score
from dsr.evaluation.frechet import Moments
from dsr.evaluation.inception import InceptionGraph, inception_score
from dsr.evaluation.precision_recall import Points

from . import evaluator_exact as exact
from .common import Computed, Family, Golden, Tolerance

SETTINGS = {
    "versions", "warnings", "error", "fid_dtype", "recipe", "seed", "batch", "split_size", "softmax_batch",
    "x", "y", "mu_ref", "sigma_ref", "acts", "w", "n_ref", "n_stat", "n_sample", "sha_ref", "sha_stat", "sha_sample",
}  # fmt: skip
"""Keys that are no results; `ref` and `sample` are results in the files of activations alone."""


def knows(path: Path) -> bool:
    """Whether this module reads the file."""
    return path.stem.partition("_")[0] in ("fid", "is", "pr", "e2e")


def read(path: Path) -> Golden:
    """Read one file, and name its results so that the name says which tolerance holds."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    activations = path.stem.startswith("e2e_") and {"ref", "sample"} <= arrays.keys() and arrays["ref"].ndim == 2
    settings = SETTINGS if activations else SETTINGS | {"ref", "sample"}
    inputs = {key: value for key, value in arrays.items() if key in settings}
    results = {key: value for key, value in arrays.items() if key not in settings}
    outputs: dict[str, np.ndarray] = {}
    for key, value in results.items():
        if key in ("fid", "sfid", "score", "inception_score"):
            outputs[key] = value
            if np.isfinite(value):
                outputs[f"recorded/{key}"] = value
        elif key.startswith(("precision", "recall")):
            outputs[f"count/{key}"] = np.round(value * _members(key, inputs))
        elif key.startswith("radii_"):
            pairs = "f16_rr" if key == "radii_ref" else "f16_ss"
            outputs[f"{'half' if results[pairs].all() else 'single'}/{key}"] = value / _scale(inputs)
        elif key.startswith("inside_"):
            outputs[f"inside/{key}"] = value
        else:
            outputs[key] = value
    return Golden(path, {}, {}, inputs, outputs)


def _members(key: str, inputs: dict[str, np.ndarray]) -> int:
    """How many points a share counts: one changed membership is then a difference of 1."""
    name = "sample" if key.startswith("precision") else "ref"
    return int(inputs[f"n_{name}"]) if f"n_{name}" in inputs else len(inputs[name])


def _scale(inputs: dict[str, np.ndarray]) -> float:
    """Largest squared norm: the rounding of a float32 distance is relative to it, not to the distance."""
    return max(float(np.square(inputs[name].astype(np.float64)).sum(axis=1).max()) for name in ("ref", "sample")) or 1.0


# ------------------------------------------------------------------------------------------------- Frechet distance


def compute_fid(golden: Golden) -> Computed:
    """FID of two sets of features, or of one set and stored moments."""
    first = frechet.fit(golden.inputs["x"])
    if "y" in golden.inputs:
        second = frechet.fit(golden.inputs["y"])
    else:
        second = frechet.from_moments(Moments(golden.inputs["mu_ref"], golden.inputs["sigma_ref"], golden.path.name))
    fid = frechet.distance(first, second)
    return {
        "fid": fid,
        "recorded/fid": fid,
        "mu_x": first.mean,
        "mu_y": second.mean,
        "trace_x": first.trace,
        "trace_y": second.trace,
    }


def expect_fid(golden: Golden) -> dict[str, np.ndarray]:
    """Replace the official FID where a covariance is singular or nearly so (its root is noisy, fails or gives NaN).

    That is so for n <= d (`fid_rank_deficient`), repeated rows (`fid_duplicated`), constant columns
    (`fid_constant_columns`, `fid_constant_all`) and strongly correlated columns (`fid_near_singular`: the official
    script stops with an error).
    """
    x, inputs = golden.inputs["x"], golden.inputs
    if "y" in inputs:
        sound = exact.is_well_conditioned(x) and exact.is_well_conditioned(inputs["y"])
        truth = golden.outputs["fid"] if sound else exact.distance(x, inputs["y"])
    else:
        sound = exact.is_well_conditioned(x) and exact.is_well_conditioned(sigma=inputs["sigma_ref"])
        truth = golden.outputs["fid"] if sound else exact.distance_to_moments(x, inputs["mu_ref"], inputs["sigma_ref"])
    return {**golden.outputs, "fid": np.asarray(truth)}


# -------------------------------------------------------------------------------------------------- Inception Score


def compute_is(golden: Golden) -> Computed:
    """Inception Score of given features and softmax weights."""
    value = inception_score(golden.inputs["acts"], golden.inputs["w"], int(golden.inputs["split_size"]))
    return {"score": value, "recorded/score": value}


def expect_is(golden: Golden) -> dict[str, np.ndarray]:
    """Replace NaN, which the official float32 probabilities give where one underflows (`is_underflow_nan`)."""
    if np.isfinite(golden.outputs["score"]):
        return dict(golden.outputs)
    truth = exact.inception_score(golden.inputs["acts"], golden.inputs["w"], int(golden.inputs["split_size"]))
    return {**golden.outputs, "score": np.asarray(truth)}


# --------------------------------------------------------------------------------------------- Precision and Recall


def compute_pr(golden: Golden) -> Computed:
    """Precision and Recall with everything that leads to them."""
    block = int(golden.inputs["batch"])
    reference, sample = (Points(golden.inputs[name], block) for name in ("ref", "sample"))
    radii = [precision_recall.radii(points, 3) for points in (reference, sample)]
    found, _, kept = precision_recall.members(reference, sample, *radii)
    counts = {"precision": found.samples.sum(), "recall": found.references.sum()}
    scaled = {
        name: value.half[:, None] / _scale(golden.inputs)
        for name, value in zip(("radii_ref", "radii_sample"), radii, strict=True)
    }
    return {
        **{f"{kind}/{name}": value for kind in ("half", "single") for name, value in scaled.items()},
        **{f"count/{name}{suffix}": value for name, value in counts.items() for suffix in ("", "_alt")},
        "inside/inside_sample": found.samples,
        "inside/inside_ref": found.references,
        "f16_rr": precision_recall.half_blocks(reference, reference),
        "f16_ss": precision_recall.half_blocks(sample, sample),
        "f16_rs": kept,
    }


# ------------------------------------------------------------------------------------------------ images to metrics


def images_of(path: Path) -> dict[str, np.ndarray]:
    """Read uint8 images (n, S, S, 3), or draw them by the recipe that the file states, and compare their hashes."""
    with np.load(path, allow_pickle=False) as file:
        if "recipe" not in file.files:
            return {name: file[name] for name in ("ref", "sample")}
        recipe, seed = str(file["recipe"]), int(file["seed"])
        counts = {name: int(file[f"n_{name}"]) for name in ("ref", "stat", "sample")}
        hashes = {name: str(file[f"sha_{name}"]) for name in counts}
    calls = re.findall(r"images\(seed\+(\d+),\w+(?:,shift=(-?\d+))?\)", recipe)
    size = re.search(r"(\d+)x\1\b", recipe)
    if len(calls) != 3 or size is None:
        raise ValueError(f"{path.name}: cannot read the recipe '{recipe}'")
    drawn = {}
    for (name, count), (offset, shift) in zip(counts.items(), calls, strict=True):
        drawn[name] = draw(seed + int(offset), count, int(size[1]), int(shift or 0))
        if hashlib.sha256(drawn[name].tobytes()).hexdigest() != hashes[name]:
            raise ValueError(f"{path.name}: the images drawn for '{name}' are not the recorded ones")
    return drawn


def draw(seed: int, count: int, size: int, shift: int = 0) -> np.ndarray:
    """Colour gradients with one to four discs under a chequered pattern; ``shift`` brightens the gradients."""
    random = np.random.default_rng(seed)
    y, x = np.ogrid[:size, :size]
    images = np.empty((count, size, size, 3), np.uint8)
    for image in images:
        start = random.integers(0, 200, 3) + shift
        slope_x, slope_y = random.integers(-3, 4, 3), random.integers(-3, 4, 3)
        pixels = start + slope_x * x[..., None] + slope_y * y[..., None]
        for _ in range(random.integers(1, 5)):
            centre_y, centre_x = random.integers(0, size, 2)
            radius = random.integers(size // 16, size // 2)
            colour = random.integers(0, 256, 3)
            pixels[(y - centre_y) ** 2 + (x - centre_x) ** 2 <= radius**2] = colour
        period_y, period_x = random.integers(2, 9, 2)
        pixels += random.integers(0, 40) * ((y // period_y + x // period_x) % 2)[..., None]
        image[:] = np.clip(pixels, 0, 255)
    return images


class EndToEnd:
    """Images of one file, through the graph that lies beside it."""

    def __init__(self, path: Path) -> None:
        (graph,) = path.parent.glob("*.pb")
        with InceptionGraph(graph) as network:
            self.weights = network.softmax_weights()
            # What the stub makes of four images fits in a cache; more at once are not other features, but slower ones.
            found = {
                name: network.activations(images[start : start + 4] for start in range(0, len(images), 4))
                for name, images in images_of(path).items()
            }
        self.reference, self.sample, self.statistics = found["ref"], found["sample"], found.get("stat")

    def scores(self) -> dict[str, float]:
        """All scores; statistics images stand for the moments that a reference file stores."""
        pooled, spatial = None, None
        if self.statistics is not None:
            pooled, spatial = (
                Moments(features.mean(axis=0), np.cov(features, rowvar=False), "statistics")
                for features in (self.statistics.pooled, self.statistics.spatial)
            )
        reference = ImageSet(self.reference, pooled, spatial)
        return score(reference, ImageSet(self.sample), self.weights)[0]


@functools.lru_cache(maxsize=1)
def _end_to_end(path: Path) -> EndToEnd:
    return EndToEnd(path)


def compute_e2e(golden: Golden) -> Computed:
    """Everything from images: activations, or scores with some intermediate values."""
    if {"ref", "sample"} <= golden.outputs.keys():
        found = _end_to_end(golden.path.with_name(golden.path.stem.rpartition("_")[0] + "_images.npz"))
        kind = "spatial" if golden.path.stem.endswith("_spatial") else "pooled"
        return {"ref": getattr(found.reference, kind), "sample": getattr(found.sample, kind)}
    found = _end_to_end(golden.path)
    scores = found.scores()
    computed: dict[str, np.ndarray | float] = {
        "pool_head": found.sample.pooled[: len(golden.outputs.get("pool_head", ()))],
        "spatial_head": found.sample.spatial[: len(golden.outputs.get("spatial_head", ()))],
        "mu_sample": found.sample.pooled.mean(axis=0),
        "count/precision": np.round(scores["precision"] * len(found.sample.pooled)),
        "count/recall": np.round(scores["recall"] * len(found.reference.pooled)),
        **{f"{prefix}{key}": scores[key] for prefix in ("", "recorded/") for key in ("fid", "sfid", "inception_score")},
    }
    if found.statistics is not None:
        pooled, spatial = found.statistics.pooled, found.statistics.spatial
        computed |= {
            "mu_ref_stat": pooled.mean(axis=0),
            "mu_s_ref_stat": spatial.mean(axis=0),
            "trace_sigma_stat": frechet.fit(pooled).trace,
            "trace_sigma_s_stat": frechet.fit(spatial).trace,
        }
    return computed


def expect_e2e(golden: Golden) -> dict[str, np.ndarray]:
    """Replace the official FID and sFID where a covariance is singular: fewer images than features, dead features."""
    expected = dict(golden.outputs)
    if "fid" in expected:
        found = _end_to_end(golden.path)
        against = found.statistics or found.reference
        for key, kind in (("fid", "pooled"), ("sfid", "spatial")):
            x, y = getattr(found.sample, kind), getattr(against, kind)
            if not (exact.is_well_conditioned(x) and exact.is_well_conditioned(y)):
                expected[key] = np.asarray(exact.distance(x, y))
    return expected


RECORDED = {"recorded/": Tolerance(rtol=1e-3, atol=1e-3)}

FAMILIES: dict[str, Family] = {
    r"fid_.*": Family(
        compute_fid,
        Tolerance(rtol=1e-6, atol=1e-9),
        special={"mu_x": Tolerance(), "mu_y": Tolerance(), **RECORDED},
        expected=expect_fid,
    ),
    r"is_.*": Family(compute_is, Tolerance(rtol=1e-5), special=RECORDED, expected=expect_is),
    r"pr_.*": Family(
        compute_pr,
        Tolerance(),
        special={
            "half/": Tolerance(flips=1),
            "single/": Tolerance(rtol=1e-5, atol=1e-6),
            "count/": Tolerance(atol=1),
            "inside/": Tolerance(flips=1),
        },
    ),
    r"e2e_.*": Family(
        compute_e2e,
        Tolerance(rtol=1e-4, atol=1e-4),
        special={
            "fid": Tolerance(rtol=1e-6),
            "sfid": Tolerance(rtol=1e-6),
            "inception_score": Tolerance(rtol=1e-5),
            "count/": Tolerance(atol=1),
            **RECORDED,
        },
        expected=expect_e2e,
    ),
}
