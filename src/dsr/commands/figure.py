"""Draw one figure from maps, samples or metrics files; drawing is cheap, nothing is computed anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.base.logs import command
from dsr.commands.keyed import keyed_paths
from dsr.report.figures.kinds import KINDS, draw
from dsr.report.specs import FigureSpec


@command
def main() -> None:
    """Draw and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(KINDS), help="what to draw")
    parser.add_argument("--spec", required=True, help="FigureSpec as JSON")
    parser.add_argument(
        "--inputs",
        nargs="+",
        required=True,
        metavar="ID=PATH",
        help="files to draw, in order; the id of a metrics file is ROW:EPOCH, for averages ROW:EPOCH:DECAY",
    )
    parser.add_argument("--png", type=Path, help="PNG file to write")
    parser.add_argument("--svg", type=Path, help="SVG file to write")
    arguments = parser.parse_args()
    spec = FigureSpec.model_validate_json(arguments.spec)
    draw(arguments.kind, spec, keyed_paths(arguments.inputs), arguments.png, arguments.svg)


if __name__ == "__main__":
    main()
