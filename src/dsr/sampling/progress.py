"""What a sampling job reports while it goes: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import NoReturn

from tqdm import tqdm

log = logging.getLogger(__name__)

LINE_SECONDS = 60.0
"""Time between log lines."""


class Progress:
    """Reports of the first process on the images of all processes; ``done`` of ``images`` were there before."""

    def __init__(self, images: int, done: int) -> None:
        self._images, self._before = images, done
        self._began = self._reported = time.perf_counter()
        self._bar: tqdm[NoReturn] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=images, initial=done, unit="images", unit_scale=True, smoothing=0.05)

    def update(self, done: int) -> None:
        """Report that ``done`` images are there."""
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif done > self._before and now - self._reported >= LINE_SECONDS:
            self._reported = now
            speed = (done - self._before) / (now - self._began)
            minutes = (self._images - done) / speed / 60
            log.info("%d of %d images, %.1f images/s, %.0f min to go", done, self._images, speed, minutes)

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()
