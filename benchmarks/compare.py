"""The speed of this version beside another one's, on one GPU: `python -m benchmarks.compare FOLDER`.

FOLDER holds the other version, as `git worktree add FOLDER COMMIT` leaves it. Both versions run their own
`benchmarks.all`, one after the other for a group of stages, in the opposite order for the next group, and all once more
while the time lasts; the medians of each stage are compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from dsr.base import files

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]

GROUPS = (
    ("train-bf16", "train-tf32"),
    ("encode-b", "sample", "sample-dh"),
    ("train-dh-bf16", "train-dh-fp16", "train-dh-tf32", "train-fp16"),
)
"""Stages that share a process."""

Speeds = dict[str, dict[str, list[float]]]
"""Images per second of every run, by stage and version."""


def measure(version: str, root: Path, stages: list[str], output: Path, extra: list[str], seconds: float) -> None:
    """Let a version measure some stages, into files ``output`` + .json and .log; one that fails or is late has less."""
    command = [sys.executable, "-m", "benchmarks.all", "--json", f"{output}.json", "--seconds", str(seconds), *extra]
    path = os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "USE_TF": "0"}
    with Path(f"{output}.log").open("w", encoding="utf-8") as file:
        try:
            subprocess.run(
                [*command, "--stages", *stages], cwd=root, env=environment, stdout=file, stderr=subprocess.STDOUT,
                timeout=seconds, check=True,
            )  # fmt: skip
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            log.warning("%s: %s; see %s.log", version, error.__class__.__name__, output)


def speeds(folder: Path) -> Speeds:
    """Read what all runs so far have measured."""
    found: Speeds = {}
    for path in sorted(folder.glob("[0-9]*.json")):
        version = path.stem.split("-")[1]
        for stage, result in json.loads(path.read_text(encoding="utf-8"))["results"].items():
            found.setdefault(stage, {}).setdefault(version, []).append(result["images/s"])
    return found


def table(found: Speeds) -> list[dict[str, Any]]:
    """One line a stage that both versions have measured."""
    lines = []
    for stage, runs in found.items():
        if runs.keys() == {"old", "new"}:
            old, new = (statistics.median(runs[version]) for version in ("old", "new"))
            every = {f"runs, {version}": " ".join(f"{speed:.4g}" for speed in runs[version]) for version in runs}
            lines.append({"stage": stage, "old /s": old, "new /s": new, "ratio": new / old, **every})
    return lines


def main() -> None:
    """Measure group after group, and print the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="folder of the other version")
    parser.add_argument("--output", type=Path, required=True, help="folder for what every run measured and printed")
    parser.add_argument("--stages", nargs="+", help="some stages only")
    parser.add_argument("--seconds", type=float, default=530, help="be done after this long (default: 530)")
    parser.add_argument("--options", default="--steps 10 --shards 1", help="for benchmarks.all of both versions")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    options.output.mkdir(parents=True, exist_ok=True)
    roots = {"old": options.old.resolve(), "new": ROOT}
    groups = [[stage for stage in group if stage in (options.stages or group)] for group in GROUPS]
    deadline, taken = time.monotonic() + options.seconds, [1.0] * len(groups)
    for number in itertools.count():
        group, began = number % len(groups), time.monotonic()
        if all(deadline - began < seconds for seconds in taken):
            break
        # Later runs find compiled kernels in caches, so that they take no longer than the first ones did.
        if not groups[group] or deadline - began < taken[group]:
            taken[group] = math.inf
            continue
        order = ("old", "new") if (number // len(groups) + group) % 2 == 0 else ("new", "old")
        for version in order:
            output = (options.output / f"{number:02d}-{version}").resolve()
            measure(
                version, roots[version], groups[group], output, options.options.split(), deadline - time.monotonic()
            )
        taken[group] = time.monotonic() - began
        lines = table(speeds(options.output))
        machine.report(lines)
        files.write_json(options.output / "comparison.json", lines)


if __name__ == "__main__":
    main()
