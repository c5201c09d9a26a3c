"""Draw one figure from maps, samples or metrics files; drawing is cheap, nothing is computed anew."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from dsr.base.command import command
from dsr.base.files import atomic
from dsr.config.load import Config
from dsr.report.entries import Entries
from dsr.report.figures.common import FigureInput, style
from dsr.report.figures.curves import averages, fid, training
from dsr.report.figures.maps import attention, components, norms, outliers, times
from dsr.report.figures.samples import reconstruction, samples

Kind = Literal[
    "norms", "times", "components", "attention", "outliers", "samples", "reconstruction", "fid", "averages", "training"
]

KINDS: Mapping[str, Callable[[FigureInput], Figure]] = {
    kind.__name__: kind
    for kind in (norms, times, components, attention, outliers, samples, reconstruction, fid, averages, training)
}
"""Each draws the maps of the entries, but for `samples` and `reconstruction` (their samples), `fid` and `averages`
(their metrics), and `training` (the trainer's records)."""


def draw(
    kind: Kind,
    config: Config,
    entries: Entries,
    png: Path,
    svg: Path,
    image: int | None = None,
    names: Path | None = None,
) -> None:
    """Draw one figure from maps, samples or metrics files; drawing is cheap, nothing is computed anew.

    Args:
        kind: what to draw.
        config: the configuration.
        entries: what it shows, in order.
        png: PNG file to write.
        svg: SVG file to write.
        image: validation image whose token maps it shows; without it the first one.
        names: index of prepared images, whose class folders name the classes of samples.
    """
    entries.require(config)
    with style():
        figure = KINDS[kind](FigureInput(config, entries.root, image, names))
        # Without dates and versions inside.
        for path, metadata in ((png, {"Software": None}), (svg, {"Date": None, "Creator": None})):
            with atomic(path) as temporary:
                figure.savefig(temporary, metadata=metadata)


if __name__ == "__main__":
    command(draw)()
