"""Score samples against reference images: FID, sFID, Inception Score, Precision and Recall (ADM protocol)."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.base.files import write_json
from dsr.base.logs import command
from dsr.evaluation.evaluate import Job, evaluate
from dsr.evaluation.specs import EvaluateSpec

LABELS = {"row": str, "epoch": int, "guidance": str, "seed": int}
"""Names that the metrics file repeats if they are given."""


@command
def main() -> None:
    """Evaluate and write the metrics file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", default="{}", help="EvaluateSpec as JSON (default: the official protocol)")
    parser.add_argument("--samples", type=Path, required=True, help="npz of the samples")
    parser.add_argument("--reference", type=Path, required=True, help="npz of the reference")
    parser.add_argument("--graph", type=Path, required=True, help="frozen Inception graph")
    parser.add_argument("--cache", type=Path, help="folder of what depends on one set of images alone")
    parser.add_argument("--keep", action="store_true", help="keep what depends on the samples alone too")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    for name, kind in LABELS.items():
        parser.add_argument(f"--{name}", type=kind, help=f"{name} to record in the metrics file")
    given = vars(parser.parse_args())
    labels = {name: value for name in LABELS if (value := given.pop(name)) is not None}
    spec, output = EvaluateSpec.model_validate_json(given.pop("spec")), given.pop("output")
    write_json(output, labels | evaluate(Job(**given), spec))


if __name__ == "__main__":
    main()
