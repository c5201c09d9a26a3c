"""Loss and gradient norm against steps, from the trainer's own records, as far as they go."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dsr.base.errors import UserError
from dsr.base.files import read_json_lines
from dsr.report.figures.common import FigureInput, grid, heading

QUANTITIES = {"loss": "loss", "grad_norm": "gradient norm"}


def training(given: FigureInput) -> Figure:
    """Draw both of all rows; a row without a record is left out.

    Raises:
        UserError: if no row has a record.
    """
    runs = {one.row: read_steps(one.record) for one in given.entries if one.record and one.record.exists()}
    if not any(runs.values()):
        raise UserError("Loss and gradient norm: no row has been trained yet")
    figure, ((upper,), (lower,)) = grid(2, 1, (4.6, 1.9), (0.0, 0.35))
    heading(upper, "Loss and gradient norm", f"{given.config.name} · means over the steps between two reports", 5.6)
    for axes, (name, label) in zip((upper, lower), QUANTITIES.items(), strict=True):
        for number, (row, steps) in enumerate(runs.items()):
            points = [(step, line[name]) for step, line in steps.items() if name in line]
            axes.plot(
                *zip(*points, strict=True),
                color=f"C{number}",
                lw=1.2,
                marker="o",
                ms=3 if len(points) < 50 else 0,
                label=row,
            )
        axes.set_ylabel(label)
        axes.grid()
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("optimizer steps")
    upper.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02))
    return figure


def read_steps(record: Path) -> dict[int, dict[str, float]]:
    """Read a record by step; of several lines with one step the one of the last start counts."""
    lines = sorted(read_json_lines(record), key=lambda line: line["restart"])
    return dict(sorted({line["step"]: line for line in lines}.items()))
