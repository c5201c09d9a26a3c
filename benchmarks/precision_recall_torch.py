"""Time of Precision and Recall's tiles on a GPU, in PyTorch: `python -m benchmarks.precision_recall_torch`.

The operations of `dsr.evaluation.precision_recall`, tile for tile and type for type, for a GPU on which TensorFlow
cannot be installed; needs NumPy and PyTorch alone. Features are those of `benchmarks.evaluation`. Prints what of the
result changes if u.v is summed in float64, and whether NumPy finds the same radii. A CPU sums the norms in float16, but
in PyTorch's order, so that numbers in float16 are not the protocol's to the last bit. Without a GPU sizes are small.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.evaluation import draw_features

TILE, K = 2_000, 3
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IMAGES, REFERENCES = (50_000, 10_000) if DEVICE == "cuda" else (1000, 800)
Points = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Features (n, d) and their squared norms (n,) in float32 and in float16."""


def prepared(rows: np.ndarray) -> Points:
    """Add the norms of features (n, d)."""
    parts = torch.from_numpy(rows).split(TILE)
    single, half = ([part.to(dtype).square().sum(1) for part in parts] for dtype in (torch.float64, torch.float16))
    return torch.from_numpy(rows).to(DEVICE), torch.cat(single).float(), torch.cat(half)


def tiles(left: Points, right: Points, sums: torch.dtype) -> Iterator[tuple]:
    """Precision, rows, columns, norms of both and matmul of every tile; of a set with itself, from the diagonal on."""
    for i in range(0, len(left[0]), TILE):
        for j in range(i if left is right else 0, len(right[0]), TILE):
            rows, columns = slice(i, i + TILE), slice(j, j + TILE)
            for half in (0, 1):
                norms, others = left[1 + half][rows].to(DEVICE), right[1 + half][columns].to(DEVICE)
                u, v = (points.to(norms.dtype).to(sums) for points in (left[0][rows], right[0][columns]))
                yield half, rows, columns, norms, others, (u @ v.T).float().to(norms.dtype)


def squared(norms: torch.Tensor, dots: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Squared distances, float32 (m, c)."""
    return (norms[:, None] - 2 * dots + others).clamp(min=0).float()


def radii(points: Points, sums: torch.dtype) -> np.ndarray:
    """Squared distance to the k-th neighbour in float32 and in float16, (2, n)."""
    smallest = np.full((2, len(points[0]), K + 1), np.inf, np.float32)
    for half, rows, columns, norms, others, dots in tiles(points, points, sums):
        found = [(rows, squared(norms, dots, others))]
        if rows != columns:
            found.append((columns, squared(others, dots.T.contiguous(), norms)))
        for part, distances in found:
            new = distances.topk(K + 1, largest=False).values.cpu().numpy()
            smallest[half, part] = np.sort(np.concatenate([smallest[half, part], new], 1), 1)[:, : K + 1]
    return smallest[..., K]


def scores(reference: np.ndarray, samples: np.ndarray, sums: torch.dtype) -> list[np.ndarray]:
    """Radii of both sets and which of their points lie in a ball of the other, in float32 and in float16, (2, n)."""
    left, right = prepared(reference), prepared(samples)
    own, other = radii(left, sums), radii(right, sums)
    references, members = np.zeros(own.shape, bool), np.zeros(other.shape, bool)
    for half, rows, columns, norms, others, dots in tiles(left, right, sums):
        distances = squared(norms, dots, others)
        near, far = (torch.from_numpy(of).to(DEVICE) for of in (own[half, rows], other[half, columns]))
        members[half, columns] |= (distances <= near[:, None]).any(0).cpu().numpy()
        references[half, rows] |= (distances <= far).any(1).cpu().numpy()
    return [own, other, references, members]


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    samples, reference = draw_features(IMAGES, 1), draw_features(REFERENCES, 0)
    few, found = samples[:500], {}
    direct = np.sort([np.square(few - row.astype(np.float64)).sum(1) for row in few], 1)[:, K]
    off = np.abs(radii(prepared(few), torch.float32)[0] / direct - 1).max()
    print(f"largest relative difference from NumPy's radii in float32: {off:.1e}")
    for sums in (torch.float32, torch.float64):
        start = time.perf_counter()
        found[sums] = scores(reference, samples, sums)
        seconds, peak = time.perf_counter() - start, torch.cuda.max_memory_allocated() / 2**30
        shares = " ".join(f"{found[sums][side][half].mean():.5f}" for half in (1, 0) for side in (3, 2))
        print(f"{sums}: {seconds:.2f} s, {peak:.2f} GiB; precision, recall in float16, then in float32: {shares}")
    changed = [int((one != two).sum(1)[half]) for half in (1, 0) for one, two in zip(*found.values(), strict=True)]
    print(f"changed by float64, float16 first: radii and members, of references and samples: {changed}")
