"""What determines the table and the figures, as commands receive it (neither torch nor TensorFlow)."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from dsr.config.base import Section
from dsr.config.encoders import Ttr
from dsr.config.load import Config
from dsr.config.sampling import Guidance


class TableRow(Section):
    """What the table says about a row."""

    id: str
    encoder: str
    ttr: Ttr
    denoiser: str
    registers: int
    ema: float
    """Decay of the moving average whose weights are sampled."""
    training_precision: str


class TableSpec(Section):
    """Table 1: every row at every epoch and guidance setting."""

    name: str
    """Title of the project or demo."""
    published: bool
    """Whether published numbers may stand beside measured ones."""
    source: str
    """Where the images come from; 'digits' is the demo."""
    rows: tuple[TableRow, ...]
    epochs: tuple[int, ...]
    settings: dict[str, Guidance]
    """Guidance settings by name; those with a scale above 1 are compared with the published guided FID."""
    images: int
    steps: int
    """Grid points of the Euler solver."""
    sampling_precision: str
    seed: int
    neighbours: int
    split: int
    command: str = "snakemake"
    """How a missing result is asked for; its path is appended."""


class FigureSpec(Section):
    """How a figure is drawn; every kind reads the fields that concern it."""

    name: str
    """Title of the project or demo."""
    published: bool
    """Whether published points are drawn beside measured ones."""
    note: str = ""
    """What else the subtitle says, such as the epoch of the weights."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of inputs by id; an input without one is labelled by its id."""
    layers: tuple[str, ...] = ()
    """Layers to show ('1' is after the first block); empty: at equal shares of the depth, and the output."""
    time: float = 0.5
    """Time t at which rows are compared."""
    image: int | None = None
    """Validation image to show; null takes the first one in the file."""
    multiple: float = 3.0
    """A token is an outlier when its norm exceeds this multiple of its image's median token norm."""
    images: int = 64
    """Images in a sample grid."""
    classes: int = 1000
    """Classes of the sampled labels."""
    seed: int = 0
    """Sampling seed; it fixes the labels of the samples."""
    baseline: str = ""
    """FID against epochs: the row whose last FID the other one reaches earlier; empty draws no arrow."""
    faster: str = ""
    """FID against epochs: the row that reaches it."""


_TTR_SUFFIX = {"none": "", "single": " + test-time register", "recursive": " + recursive test-time register"}


def table(config: Config, names: Iterable[str] | None = None, command: str = "snakemake") -> TableSpec:
    """Return the specification of Table 1, of all rows or of those named."""
    chosen = {name: config.rows[name] for name in names or config.rows}
    rows = tuple(
        TableRow(
            id=name,
            encoder=row.encoder,
            ttr=row.ttr,
            denoiser=row.denoiser,
            registers=row.registers,
            ema=config.recipes[row.recipe].ema[0],
            training_precision=config.recipes[row.recipe].precision,
        )
        for name, row in chosen.items()
    )
    return TableSpec(
        name=config.name,
        published=config.published,
        source=config.data.source,
        rows=rows,
        epochs=config.evaluation.epochs,
        settings=config.sampling.guidance,
        images=config.sampling.images,
        steps=config.sampling.steps,
        sampling_precision=config.sampling.precision,
        seed=config.sampling.seeds[0],
        neighbours=config.evaluation.neighbours,
        split=config.evaluation.split,
        command=command,
    )


def figure(config: Config, note: str = "") -> FigureSpec:
    """Return the specification of all figures; rows are compared at the middle one of ``figures.times``.

    Inputs that show an encoder are named 'encoder:ttr', all others by their row.
    """
    times = config.figures.times
    baseline, faster = _dual_stage_pair(config)
    labels = {f"{name}:{ttr}": f"{name}{suffix}" for name in config.encoders for ttr, suffix in _TTR_SUFFIX.items()}
    return FigureSpec(
        name=config.name,
        published=config.published,
        note=note,
        labels=labels,
        time=times[len(times) // 2],
        multiple=config.figures.outlier_multiple,
        images=config.figures.grid,
        classes=config.data.classes,
        seed=config.sampling.seeds[0],
        baseline=baseline,
        faster=faster,
    )


def _dual_stage_pair(config: Config) -> tuple[str, str]:
    """Return the first row with both kinds of registers, after the row that differs in nothing else."""
    for faster, row in config.rows.items():
        for baseline, other in config.rows.items():
            same = (row.encoder, row.denoiser, row.recipe) == (other.encoder, other.denoiser, other.recipe)
            if same and row.ttr != "none" and row.registers and other.ttr == "none" and not other.registers:
                return baseline, faster
    return "", ""
