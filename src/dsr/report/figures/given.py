"""What figures are drawn from, and what those of maps show of it: which layers, time and image."""

from collections.abc import Mapping
from dataclasses import dataclass

from dsr.analysis.maps import OUTPUT, TokenMaps, equal_shares
from dsr.config.load import Config
from dsr.report.entries import Entry

_SHARES = 6
"""Blocks that are shown where none are asked for."""
_TTR = {"none": "", "single": " + test-time register", "recursive": " + recursive test-time register"}

Files = Mapping[str, TokenMaps]
"""Maps by label."""


@dataclass(frozen=True)
class FigureInput:
    """What a figure is drawn from."""

    config: Config
    entries: tuple[Entry, ...]
    """What it shows, in order."""
    image: int | None = None
    """Validation image whose token maps it shows; None is the first one in the file."""

    @property
    def labels(self) -> list[str]:
        """Labels of maps and samples: the encoder, or the row, with its epoch if the epochs differ."""
        several = len({one.epoch for one in self.entries}) > 1
        return [
            (f"{one.row}, epoch {one.epoch}" if several else one.row) or one.encoder + _TTR[one.ttr]
            for one in self.entries
        ]

    @property
    def subtitle(self) -> list[str]:
        """What the subtitle of maps and samples begins with: the project, and the epoch if all have the same."""
        epochs = {one.epoch for one in self.entries if one.row}
        return [self.config.name, *(f"epoch {epoch}" for epoch in epochs if len(epochs) == 1)]

    def maps(self) -> dict[str, TokenMaps]:
        """Read the maps files, by label."""
        files = zip(self.labels, self.entries, strict=True)
        return {label: TokenMaps.load(one.maps) for label, one in files if one.maps is not None}

    def image_position(self, file: TokenMaps) -> int:
        """Position of the image to show."""
        return 0 if self.image is None else file.image(self.image)

    def time_position(self, file: TokenMaps) -> int:
        """Position of the time at which rows are compared; an encoder has only one."""
        times = self.config.figures.times
        return 0 if len(file.times) == 1 else file.time(times[len(times) // 2])


@dataclass(frozen=True)
class Columns:
    """Which layer of each file is in which column."""

    headings: list[str]
    layers: dict[str, list[str]]
    """Layer names of every file, one per column."""
    same: bool
    """Whether a column is the same layer of every file; otherwise it is the same share of the depth."""


def choose_columns(given: FigureInput, files: Files) -> Columns:
    """Choose `figures.layers` if all are denoisers that have them, else equal shares of every depth; and the output."""
    known = {name: [layer for layer in file.layers.tolist() if layer != OUTPUT] for name, file in files.items()}
    chosen = [*map(str, given.config.figures.layers or ())] if all(map(is_denoiser, files.values())) else []
    if not chosen or any(layer not in blocks for blocks in known.values() for layer in chosen):
        count = min([_SHARES, *map(len, known.values())])
        layers = {name: equal_shares(blocks, count) for name, blocks in known.items()}
    else:
        layers = dict.fromkeys(files, chosen)
    first, *others = layers.values()
    same = all(other == first for other in others)
    shares = [f"depth {number}/{len(first)}" for number in range(1, len(first))]
    headings = [f"block {layer}" for layer in first] if same else [*shares, "last block"]
    return Columns([*headings, OUTPUT], {name: [*blocks, OUTPUT] for name, blocks in layers.items()}, same)


def is_denoiser(file: TokenMaps) -> bool:
    """Whether the maps are of a denoiser; an encoder sees only t = 0."""
    return bool(file.times.max() > 0)


def subject_of(file: TokenMaps) -> str:
    """What the maps are of."""
    return "the denoiser" if is_denoiser(file) else "the encoder"
