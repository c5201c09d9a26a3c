"""What determines the tables and the figures, as commands receive it (neither torch nor TensorFlow)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from dsr.config.base import Section
from dsr.config.load import Config
from dsr.config.sampling import Guidance, Sweep
from dsr.config.specs import spec_hash
from dsr.config.tables import Table

MAIN, CHART = "main", "chart"
"""Names of the published lists behind Table 1 and behind FID against epochs; the latter was read off a chart."""


class TableRow(Section):
    """What a table says about a row."""

    id: str
    published: str
    """Row of the published lists whose numbers stand beside this one's."""
    about: str = ""
    """What it is, in words; empty for a row that is not configured."""
    absent: str = ""
    """Why it has no numbers and cannot be run ('not reproduced'); empty if it can."""
    epochs: tuple[int, ...] | None = None
    """The only epochs that it has; null has all of the table's."""
    ema: float | None = None
    """Decay of the moving average whose weights are sampled."""
    training: str = ""
    """Arithmetic of its training; empty if its weights were fetched."""
    repeats: str = ""
    """Equal for rows that differ in the training seed only."""


class TableSpec(Section):
    """A table: rows at epochs and guidance settings."""

    name: str
    """Title of the project or demo."""
    title: str = ""
    """What this table is about; empty for Table 1."""
    published: bool
    """Whether published numbers may stand beside measured ones."""
    published_list: str = MAIN
    """Which published list it reproduces; CHART compares with values read off a chart."""
    source: str
    """Where the images come from; 'digits' is the demo."""
    rows: tuple[TableRow, ...]
    epochs: tuple[int, ...]
    every: bool = False
    """Show every row at every epoch, and not only what is asked for or published."""
    published_epochs: bool = False
    """Show the epochs of the published list too."""
    settings: dict[str, Guidance]
    """Guidance settings by name; those with a scale above 1 are compared with the published guided FID."""
    sweep: Sweep | None = None
    """How the setting called `chosen` was chosen."""
    images: int
    steps: int
    """Grid points of the Euler solver."""
    sampling_precision: str
    seed: int
    neighbours: int
    split: int
    note: str | None = None
    """What a reader has to know besides."""
    commands: dict[str, str] = Field(default_factory=dict)
    """How a missing result is asked for, by 'row:epoch:setting'."""


class FigureSpec(Section):
    """How a figure is drawn; every kind reads the fields that concern it."""

    name: str
    """Title of the project or demo."""
    published: bool
    """Whether published points are drawn beside measured ones."""
    published_rows: dict[str, str] = Field(default_factory=dict)
    """Row of the published lists by row, where it has another name."""
    note: str = ""
    """What else the subtitle says, such as the epoch of the weights."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of inputs by id; an input without one is labelled by its id."""
    layers: tuple[int, ...] = ()
    """Blocks to show besides the output (1 is the first); empty, or not in every network: equal shares of the depth."""
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


_TTR = {"none": "no test-time register", "single": "test-time register", "recursive": "recursive test-time register"}
_TTR_SUFFIX = {"none": "", "single": " + test-time register", "recursive": " + recursive test-time register"}


def table(config: Config, names: Iterable[str] | None = None, commands: Mapping[str, str] | None = None) -> TableSpec:
    """Return the specification of Table 1, of all rows or of those named."""
    chosen = list(names or config.rows)
    return TableSpec(
        rows=tuple(_row(config, name) for name in chosen),
        epochs=tuple(sorted({epoch for name in chosen for epoch in config.epochs(name)})),
        settings=config.sampling.guidance,
        sweep=config.sampling.sweep,
        commands=dict(commands or {}),
        **_circumstances(config),
    )


def comparison(config: Config, name: str, commands: Mapping[str, str] | None = None) -> TableSpec:
    """Return the specification of the table ``name`` of the configuration's `tables`, without guidance.

    Args:
        config: the configuration.
        name: id of the table.
        commands: how a missing result is asked for, by 'row:epoch:setting'; a row that is not configured and has none
            is shown as not reproduced.
    """
    entry: Table = config.tables[name]
    runnable = {key.split(":")[0] for key in commands or {}}
    measured = {epoch for row in entry.rows if row in config.rows for epoch in config.epochs(row)}
    return TableSpec(
        title=entry.title,
        published_list=CHART if entry.chart else name,
        rows=tuple(
            _row(config, row) if row in config.rows else _absent(config, row, row in runnable) for row in entry.rows
        ),
        epochs=entry.epochs or tuple(sorted(measured)),
        every=entry.epochs is not None,
        published_epochs=entry.epochs is None,
        settings={"unguided": config.sampling.guidance["unguided"]},
        note=entry.note,
        commands=dict(commands or {}),
        **_circumstances(config),
    )


def figure(config: Config, denoisers: Iterable[str] = (), image: int | None = None) -> FigureSpec:
    """Return the specification of a figure; rows are compared at the middle one of ``figures.times``.

    Inputs that show an encoder are named 'encoder:ttr', all others by their row.

    Args:
        config: the configuration.
        denoisers: rows whose weights it shows. Their epoch is in the subtitle, or beside every row where it differs.
        image: validation image whose token maps it shows; None is the first of ``figures.images``.
    """
    times = config.figures.times
    baseline, faster = _dual_stage_pair(config)
    epochs = {row: f"epoch {config.drawn_epoch(row)}" for row in denoisers}
    note, *others = dict.fromkeys(epochs.values()) or [""]
    labels = {f"{name}:{ttr}": f"{name}{suffix}" for name in config.encoders for ttr, suffix in _TTR_SUFFIX.items()}
    if others:
        note, labels = "", labels | {row: f"{row}, {epoch}" for row, epoch in epochs.items()}
    return FigureSpec(
        name=config.name,
        published=config.published,
        published_rows={name: row.compare_with for name, row in config.rows.items() if row.compare_with},
        note=note,
        labels=labels,
        layers=(config.figures.layers or ()) if epochs else (),
        image=image,
        time=times[len(times) // 2],
        multiple=config.figures.outlier_multiple,
        images=config.figures.grid,
        classes=config.data.classes,
        seed=config.sampling.seeds[0],
        baseline=baseline,
        faster=faster,
    )


def _absent(config: Config, name: str, runnable: bool) -> TableRow:
    """A row that is not configured; ``runnable`` if there is a command for it."""
    reason = "not part of the demo" if config.data.source == "digits" else "not reproduced"
    return TableRow(id=name, published=name, absent="" if runnable else reason)


def _row(config: Config, name: str) -> TableRow:
    row = config.rows[name]
    origin = f"weights {row.weights.artifact}, not trained here" if row.weights else f"recipe {row.recipe}"
    return TableRow(
        id=name,
        published=row.compare_with or name,
        about=f"{row.denoiser} on latents of {row.encoder}; {_TTR[row.ttr]}; {row.registers or 'no'} diffusion "
        f"registers; {origin}",
        epochs=config.epochs(name) if row.weights else None,
        ema=config.averages(name)[0],
        training=config.recipes[row.recipe].precision if row.recipe else "",
        repeats=_but_for_seed(config, name) if row.recipe else "",
    )


def _but_for_seed(config: Config, name: str) -> str:
    """Hash of everything that determines the weights of a row, but for its name and the training seed."""
    spec = config.train(name)
    return spec_hash(spec.model_copy(update={"row": "", "recipe": spec.recipe.model_copy(update={"seed": 0})}))


def _circumstances(config: Config) -> dict[str, Any]:
    """What the notes under every table say."""
    return {
        "name": config.name,
        "published": config.published,
        "source": config.data.source,
        "images": config.sampling.images,
        "steps": config.sampling.steps,
        "sampling_precision": config.sampling.precision,
        "seed": config.sampling.seeds[0],
        "neighbours": config.evaluation.neighbours,
        "split": config.evaluation.split,
    }


def _dual_stage_pair(config: Config) -> tuple[str, str]:
    """Return the first row with both kinds of registers, after the row that differs in nothing else."""
    for faster, row in config.rows.items():
        for baseline, other in config.rows.items():
            same = (row.encoder, row.denoiser, row.recipe) == (other.encoder, other.denoiser, other.recipe)
            if same and row.ttr != "none" and row.registers and other.ttr == "none" and not other.registers:
                return baseline, faster
    return "", ""
