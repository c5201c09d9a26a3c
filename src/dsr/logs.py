"""Logging and error reporting shared by all commands."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from collections.abc import Callable

from dsr.errors import UserError


def setup() -> None:
    """Log to stderr with the time; processes other than the first report warnings only."""
    first = int(os.environ.get("RANK", "0")) == 0
    logging.basicConfig(
        level=logging.INFO if first else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Set up logging for ``main`` and turn a user's error into one line and exit code 1."""

    @functools.wraps(main)
    def wrapper() -> None:
        setup()
        # In cluster jobs it comes blocked, so that torchrun does not act on it (dsr.launch.child).
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        try:
            main()
        except UserError as error:
            logging.getLogger("dsr").error("%s", error)
            sys.exit(1)

    return wrapper
