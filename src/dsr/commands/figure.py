"""Draw one figure from maps, samples or metrics files; drawing is cheap, nothing is computed anew."""

from __future__ import annotations

from pathlib import Path

from dsr.base.command import command
from dsr.config.load import Config
from dsr.report.entries import Entries
from dsr.report.figures.given import FigureInput
from dsr.report.figures.kinds import Kind, draw


@command
def main(kind: Kind, config: Config, entries: Entries, png: Path, svg: Path, image: int | None = None) -> None:
    """Draw and write the figure.

    Args:
        kind: what to draw.
        config: the configuration.
        entries: what it shows, in order.
        png: PNG file to write.
        svg: SVG file to write.
        image: validation image whose token maps it shows; without it the first one.
    """
    draw(kind, FigureInput(config, entries.root, image), png, svg)


if __name__ == "__main__":
    main()
