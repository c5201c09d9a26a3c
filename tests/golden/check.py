"""Compare this project's code with recorded vectors: `python tests/golden/check.py DIR`.

Prints a line a file: case, largest absolute and relative difference, tolerance, PASS or FAIL. Exits with 1 on any
failure, on a case that no family knows, on a file without outputs and on a folder without vector files.
"""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from cases import data, denoiser, encoder, evaluator, training
from cases.common import Computed, Family, Golden, Tolerance, read

FAMILIES: dict[str, Family] = {
    **denoiser.FAMILIES,
    **encoder.FAMILIES,
    **data.FAMILIES,
    **training.FAMILIES,
    **evaluator.FAMILIES,
}


@dataclass(frozen=True)
class Outcome:
    """The verdict on one file."""

    file: str
    case: str
    outputs: int
    max_abs: float
    max_rel: float
    tolerance: str
    passed: bool
    problem: str = ""


def check_file(path: Path) -> Outcome:
    """Compute every output of one vector file and compare it."""
    golden = read(path)
    case = golden.meta.get("case") or path.stem
    if not golden.meta and evaluator.knows(path):
        golden = evaluator.read(path)
    family = next((family for pattern, family in FAMILIES.items() if re.fullmatch(pattern, case)), None)

    def failure(problem: str) -> Outcome:
        return Outcome(path.name, case, len(golden.outputs), float("nan"), float("nan"), "-", False, problem)

    if family is None:
        return failure("unknown case")
    if not golden.outputs:
        return failure("the file has no outputs to compare with")
    try:
        computed = family.compute(golden)
    except Exception as error:
        return failure(f"{type(error).__name__}: {error}")
    return compare(golden, case, family, computed)


def compare(golden: Golden, case: str, family: Family, computed: Computed) -> Outcome:
    """Compare computed with expected outputs, key by key."""
    expected = family.expected(golden) if family.expected else golden.outputs
    problems: list[str] = []
    worst_abs = worst_rel = 0.0
    for key in golden.outputs:
        want = np.asarray(expected[key])
        if key not in computed:
            problems.append(f"{key}: not computed")
            continue
        got = np.asarray(computed[key])
        if got.shape != want.shape:
            problems.append(f"{key}: shape {got.shape}, expected {want.shape}")
            continue
        tolerance = family.tolerance_of(key)
        difference, relative, bad = differences(got, want, tolerance)
        worst_abs, worst_rel = max(worst_abs, difference), max(worst_rel, relative)
        if bad > tolerance.flips:
            problems.append(f"{key}: {bad} of {want.size} values differ, by up to {difference:.3g}")
    tolerances = sorted({describe(family.tolerance_of(key)) for key in golden.outputs})
    return Outcome(
        golden.path.name, case, len(golden.outputs), worst_abs, worst_rel,
        ", ".join(tolerances), not problems, "; ".join(problems[:3]),
    )  # fmt: skip


def differences(got: np.ndarray, want: np.ndarray, tolerance: Tolerance) -> tuple[float, float, int]:
    """Return the largest absolute difference, the largest relative to the tensor's maximum, and the number outside."""
    if want.dtype.kind in "US" or got.dtype.kind in "US":
        bad = int(np.sum(got != want))
        return float(bad > 0), float(bad > 0), bad
    got64, want64 = got.astype(np.float64), want.astype(np.float64)
    gap = np.where(got64 == want64, 0.0, np.abs(got64 - want64))
    gap = np.where(np.isnan(got64) & np.isnan(want64), 0.0, gap)
    bad = int(np.sum(~(gap <= tolerance.atol + tolerance.rtol * np.abs(want64)) & (gap != 0)))
    largest = float(np.max(gap, initial=0.0))
    scale = float(np.max(np.abs(want64), initial=0.0))
    return largest, largest / scale if scale else largest, bad


def describe(tolerance: Tolerance) -> str:
    """Write a tolerance as text."""
    if tolerance == Tolerance():
        return "exact"
    return " ".join(f"{name} {value:g}" for name, value in asdict(tolerance).items() if value)


def check_folder(folder: Path) -> list[Outcome]:
    """Check every vector file of a folder."""
    outcomes = [check_file(path) for path in sorted(folder.glob("*.npz"))]
    for path in folder.glob("full_size_keys.json"):
        count, problem = denoiser.check_full_size_keys(path)
        outcomes.append(Outcome(path.name, "full_size_keys", count, 0.0, 0.0, "exact", not problem, problem))
    return outcomes


def main(folder: Path) -> int:
    """Check a folder, print a line a file, and return the exit code."""
    outcomes = check_folder(folder)
    for outcome in outcomes:
        print(
            f"{'PASS' if outcome.passed else 'FAIL'}  {outcome.file:34} {outcome.outputs:4} outputs"
            f"  abs {outcome.max_abs:9.3g}  rel {outcome.max_rel:9.3g}  ({outcome.tolerance})  {outcome.problem}"
        )
    failed = sum(not outcome.passed for outcome in outcomes)
    print(f"{len(outcomes) - failed} passed, {failed} failed" if outcomes else "no vector files found")
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
