"""How far a long job is: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from typing import NoReturn

from tqdm import tqdm

from dsr.base.text import duration

log = logging.getLogger(__name__)


class Progress:
    """Images of all processes, reported by the first; ``done`` of ``total`` were there before."""

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
