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
from cases import denoiser, encoder, evaluator, training
from cases.common import Computed, Family, Golden, Tolerance, read

FAMILIES: dict[str, Family] = {**denoiser.FAMILIES, **encoder.FAMILIES, **training.FAMILIES, **evaluator.FAMILIES}


@dataclass(frozen=True)
class Outcome:
    """The verdict on one file, which passed if there is no problem."""

    file: str
    outputs: int
    problem: str
    max_abs: float = float("nan")
    max_rel: float = float("nan")
    tolerance: str = "-"


def check_file(path: Path) -> Outcome:
    """Compute every output of one vector file and compare it."""
    golden = read(path)
    case = golden.meta.get("case") or path.stem
    if not golden.meta and evaluator.knows(path):
        golden = evaluator.read(path)
    family = next((family for pattern, family in FAMILIES.items() if re.fullmatch(pattern, case)), None)
    if family is None:
        return Outcome(path.name, len(golden.outputs), "unknown case")
    if not golden.outputs:
        return Outcome(path.name, 0, "the file has no outputs to compare with")
    try:
        computed = family.compute(golden)
    except Exception as error:
        return Outcome(path.name, len(golden.outputs), f"{type(error).__name__}: {error}")
    return compare(golden, family, computed)


def compare(golden: Golden, family: Family, computed: Computed) -> Outcome:
    """Compare computed with expected outputs, key by key."""
    expected = family.expected(golden) if family.expected else golden.outputs
    problems: list[str] = []
    worst_abs = worst_rel = 0.0
    for key in golden.outputs:
        want, tolerance = np.asarray(expected[key]).astype(np.float64), family.tolerance_of(key)
        if key not in computed:
            problems.append(f"{key}: not computed")
            continue
        got = np.asarray(computed[key]).astype(np.float64)
        if got.shape != want.shape:
            problems.append(f"{key}: shape {got.shape}, expected {want.shape}")
            continue
        bad = int((~np.isclose(got, want, tolerance.rtol, tolerance.atol, equal_nan=True)).sum())
        largest = float(
            np.max(np.abs(got - want), initial=0.0, where=~((got == want) | np.isnan(got) & np.isnan(want)))
        )
        scale = float(np.max(np.abs(want), initial=0.0))
        worst_abs, worst_rel = max(worst_abs, largest), max(worst_rel, largest / scale if scale else largest)
        if bad > tolerance.flips:
            problems.append(f"{key}: {bad} of {want.size} values differ, by up to {largest:.3g}")
    tolerances = sorted({describe(family.tolerance_of(key)) for key in golden.outputs})
    return Outcome(
        golden.path.name, len(golden.outputs), "; ".join(problems[:3]), worst_abs, worst_rel, ", ".join(tolerances)
    )


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
        outcomes.append(Outcome(path.name, count, problem, 0.0, 0.0, "exact"))
    return outcomes


def main(folder: Path) -> int:
    """Check a folder, print a line a file, and return the exit code."""
    outcomes = check_folder(folder)
    for outcome in outcomes:
        print(
            f"{'FAIL' if outcome.problem else 'PASS'}  {outcome.file:34} {outcome.outputs:4} outputs"
            f"  abs {outcome.max_abs:9.3g}  rel {outcome.max_rel:9.3g}  ({outcome.tolerance})  {outcome.problem}"
        )
    failed = sum(bool(outcome.problem) for outcome in outcomes)
    print(f"{len(outcomes) - failed} passed, {failed} failed" if outcomes else "no vector files found")
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
