"""Time and memory of the metrics beside the official formulation: `python -m benchmarks.evaluation --images 50000`.

Synthetic features, 2048 wide, with the squared norm of Inception's. The official column computes what the ADM
evaluator computes: numpy.cov, scipy.linalg.sqrtm of the product, float32 softmax, and float16 distances in TensorFlow,
10,000 x 10,000 at a time, kept in float32 for a partition of whole rows. Each cell is a process of its own, so its peak
memory is its own; the features and the imports are in the peak, not in the time. The network is not part of it. Both
sides get the same number of threads. `all of it` is everything that an evaluation computes besides the network, in one
process: both Frechet distances, the Inception Score, Precision and Recall, which are ours in the protocol's float16 and
in float32, the official's in the former; the official script keeps the features as this does.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np

WIDTH, SPATIAL, CLASSES, SPLIT, BLOCK, NEIGHBOURS = 2048, 2023, 1008, 5000, 10_000, 3
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")

Metric = Callable[[np.ndarray, np.ndarray], object]


def draw_features(count: int, seed: int) -> np.ndarray:
    """Non-negative, correlated float32 features (count, 2048) with |x|^2 around 455; the seed moves them a little."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((64, WIDTH), dtype=np.float32) * np.float32(0.06 + 0.001 * seed)
    rows = generator.standard_normal((count, 64), dtype=np.float32) @ mixing
    for start in range(0, count, BLOCK):
        part = rows[start : start + BLOCK]
        part += 0.5 * generator.standard_normal(part.shape, dtype=np.float32)
        np.abs(part, out=part)
        part *= np.sqrt(455 / np.square(part[:1000]).sum(axis=1).mean())
    return rows


def draw_weights() -> np.ndarray:
    """Softmax weights (2048, 1008)."""
    return np.random.default_rng(7).standard_normal((WIDTH, CLASSES), dtype=np.float32) / 10


def our_fid(sample: np.ndarray, reference: np.ndarray) -> float:
    """FID by factors and singular values."""
    from dsr.evaluation import frechet

    return frechet.distance(frechet.fit(sample), frechet.fit(reference))


def official_fid(sample: np.ndarray, reference: np.ndarray) -> float:
    """FID by the matrix root of the product."""
    from scipy.linalg import sqrtm

    (mean, sigma), (other, other_sigma) = (
        (rows.mean(axis=0), np.cov(rows, rowvar=False)) for rows in (sample, reference)
    )
    root = np.real(sqrtm(sigma @ other_sigma))
    difference = mean - other
    return float(difference @ difference + np.trace(sigma) + np.trace(other_sigma) - 2 * np.trace(root))


def our_inception_score(sample: np.ndarray, reference: np.ndarray) -> float:
    """Inception Score from log-probabilities."""
    from dsr.evaluation.inception import inception_score

    return inception_score(sample, draw_weights(), 5_000)


def official_inception_score(sample: np.ndarray, reference: np.ndarray) -> float:
    """Inception Score from float32 probabilities."""
    import tensorflow as tf

    weights = draw_weights()
    p = np.concatenate(
        [tf.nn.softmax(sample[start : start + 512] @ weights).numpy() for start in range(0, len(sample), 512)]
    )
    scores = []
    for start in range(0, len(p), SPLIT):
        part = p[start : start + SPLIT]
        divergence = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(divergence.sum(axis=1).mean()))
    return float(np.mean(scores))


def our_precision_recall(sample: np.ndarray, reference: np.ndarray) -> tuple[float, ...]:
    """Precision and Recall in the float16 protocol, then in float32."""
    from dsr.evaluation.precision_recall import Points, members, radii

    left, right = Points(reference), Points(sample)
    half, single, _ = members(left, right, radii(left, NEIGHBOURS), radii(right, NEIGHBOURS))
    return tuple(float(inside.mean()) for found in (half, single) for inside in (found.samples, found.references))


def official_precision_recall(sample: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Precision and Recall with TensorFlow's float16 blocks and a partition of whole rows."""
    radius, sample_radius, distances = _official_radii(reference), _official_radii(sample), _official_distances()
    inside_sample, inside_reference = np.zeros(len(sample), bool), np.zeros(len(reference), bool)
    for start in range(0, len(reference), BLOCK):
        rows = slice(start, start + BLOCK)
        for begin in range(0, len(sample), BLOCK):
            columns = slice(begin, begin + BLOCK)
            block = distances(reference[rows], sample[columns])
            inside_sample[columns] |= (block <= radius[rows, None]).any(axis=0)
            inside_reference[rows] |= (block <= sample_radius[None, columns]).any(axis=1)
    return float(inside_sample.mean()), float(inside_reference.mean())


def _official_radii(rows: np.ndarray) -> np.ndarray:
    result = np.empty(len(rows), np.float32)
    distances, counts = _official_distances(), list(range(NEIGHBOURS + 1))
    whole, threads = np.empty((BLOCK, len(rows)), np.float32), int(os.environ["OMP_NUM_THREADS"])
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        for begin in range(0, len(rows), BLOCK):
            whole[: len(part), begin : begin + BLOCK] = distances(part, rows[begin : begin + BLOCK])
        # A thread a core, each with a part of the rows.
        with ThreadPool(threads) as pool:
            parts = pool.map(
                lambda some: np.partition(some, counts, axis=1)[:, NEIGHBOURS],
                np.array_split(whole[: len(part)], threads),
            )
        result[start : start + BLOCK] = np.concatenate(parts)
    return result


def _official_distances() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Squared distances of two blocks in float16, or in float32 if one of them is not finite; float32."""
    import tensorflow as tf

    def squared(u: Any, v: Any) -> Any:
        norms, others = (tf.reduce_sum(tf.square(points), 1) for points in (u, v))
        return tf.maximum(norms[:, None] - 2 * tf.matmul(u, v, transpose_b=True) + others[None], 0.0)

    @tf.function(reduce_retracing=True)
    def block(left: Any, right: Any) -> Any:
        half = squared(tf.cast(left, tf.float16), tf.cast(right, tf.float16))
        is_finite = tf.reduce_all(tf.math.is_finite(half))
        return tf.cond(is_finite, lambda: tf.cast(half, tf.float32), lambda: squared(left, right))

    return lambda left, right: block(tf.constant(left), tf.constant(right)).numpy()


def our_evaluation(sample: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """All metrics, as the evaluation computes them."""
    from dsr.evaluation.evaluate import ImageSet, score
    from dsr.evaluation.inception import Activations

    features, others = (Activations(rows, rows[:, :SPATIAL].copy()) for rows in (sample, reference))
    scores, _ = score(ImageSet(others), ImageSet(features), draw_weights(), {})
    return {name: round(value, 5) for name, value in scores.items()}


def official_evaluation(sample: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """All metrics of the official script, one after the other."""
    spatial, other = sample[:, :SPATIAL].copy(), reference[:, :SPATIAL].copy()
    scores = {
        "inception_score": official_inception_score(sample, reference),
        "fid": official_fid(sample, reference),
        "sfid": official_fid(spatial, other),
    }
    scores["precision"], scores["recall"] = official_precision_recall(sample, reference)
    return {name: round(value, 5) for name, value in scores.items()}


STAGES: dict[str, tuple[Metric, Metric]] = {
    "FID": (our_fid, official_fid),
    "Inception Score": (our_inception_score, official_inception_score),
    "Precision, Recall": (our_precision_recall, official_precision_recall),
    "all of it": (our_evaluation, official_evaluation),
}


@dataclass(frozen=True)
class Cell:
    """One metric on one side: wall and processor seconds, peak GiB of its process, result."""

    wall: float
    cpu: float
    memory: float
    result: object


def measure(metric: Metric, images: int, references: int) -> Cell:
    """Run one metric, in a process that does nothing else."""
    importlib.import_module("tensorflow")
    sample, reference = draw_features(images, 1), draw_features(references, 0)
    wall, cpu = time.perf_counter(), time.process_time()
    result = metric(sample, reference)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Cell(wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, result)


def main() -> None:
    """Print one line per metric and side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5_000, help="samples")
    parser.add_argument("--references", type=int, default=10_000, help="reference images")
    parser.add_argument("--metrics", nargs="+", default=list(STAGES), choices=list(STAGES), help="what to measure")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both sides")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(arguments.threads)))
    print(f"{arguments.images} samples, {arguments.references} references, {WIDTH} wide, {arguments.threads} threads")
    print(f"{'':20} {'':9}{'wall s':>8}{'ratio':>7}{'cpu s':>8}{'ratio':>7}{'peak GiB':>10}  result")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in arguments.metrics:
            ours, official = (
                pool.apply(measure, (metric, arguments.images, arguments.references)) for metric in STAGES[name]
            )
            for side, cell in (("ours", ours), ("official", official)):
                print(
                    f"{name:20} {side:9}{cell.wall:8.1f}{cell.wall / ours.wall:7.1f}{cell.cpu:8.1f}"
                    f"{cell.cpu / ours.cpu:7.1f}{cell.memory:10.2f}  {cell.result}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
