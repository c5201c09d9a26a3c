"""Logging, as all commands do it."""

from __future__ import annotations

import logging
import os


def setup() -> None:
    """Log to stderr with the time; processes other than the first report warnings only.

    The environment variable DSR_LOG_LEVEL gives another level.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    logging.basicConfig(
        level=os.environ.get("DSR_LOG_LEVEL", "INFO" if first else "WARNING"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
