"""What people read: tables in Markdown, times, and how far a long job is."""

import logging
import time
from collections.abc import Collection, Sequence
from typing import NoReturn

from tqdm import tqdm

log = logging.getLogger(__name__)


def pipe_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """Return a Markdown table; columns whose heading is in ``right`` are right-aligned."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    signs = [">" if name in right else "<" for name in header]
    rule = [f"{':' if sign == '>' else '-':->{width}}" for sign, width in zip(signs, widths, strict=True)]
    return "\n".join(
        f"| {' | '.join(f'{cell:{sign}{width}}' for cell, sign, width in zip(row, signs, widths, strict=True))} |"
        for row in (cells[0], rule, *cells[1:])
    )


def duration(hours: float | None) -> str:
    """Hours as '2 d 03:15', '3:15 h', '4 min' or '12 s'; '-' for None."""
    if hours is None:
        return "-"
    minutes = round(hours * 60)
    if minutes < 1:
        return f"{round(hours * 3600)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60}:{minutes % 60:02d} h"
    days, rest = divmod(minutes, 24 * 60)
    return f"{days} d {rest // 60:02d}:{rest % 60:02d}"


class Progress:
    """Images of all processes, a bar on a terminal and log lines elsewhere; ``done`` of ``total`` were there before."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._reported, self._since = total, done, time.perf_counter()
        # None: no bar where there is no terminal.
        self._bar: tqdm[NoReturn] = tqdm(
            total=total, initial=done, unit="images", unit_scale=True, smoothing=0.05, disable=None
        )

    def move(self, done: int) -> None:
        """Show on the bar that ``done`` images are there."""
        self._bar.update(done - self._bar.n)

    def report(self, done: int, about: str) -> float:
        """Say ``about``, with speed and time to go; return the images per second since the report before."""
        now = time.perf_counter()
        speed = (done - self._reported) / (now - self._since)
        self._reported, self._since = done, now
        self.move(done)
        self._bar.set_postfix_str(about)
        if self._bar.disable:
            hours = (self._total - done) / speed / 3600 if speed else None
            log.info("%s, %.1f images/s, %s to go", about, speed, duration(hours))
        return speed

    def close(self) -> None:
        """Finish the bar."""
        self._bar.close()
