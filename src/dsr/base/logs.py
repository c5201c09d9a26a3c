"""Logging and error reporting shared by all commands."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from collections.abc import Callable

from pydantic import ValidationError

from dsr.base.errors import UserError


def setup() -> None:
    """Log to stderr with the time; processes other than the first report warnings only."""
    first = int(os.environ.get("RANK", "0")) == 0
    logging.basicConfig(
        level=logging.INFO if first else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Set up logging for ``main`` and turn a user's error, or a wrong specification, into one line and exit code 1."""

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
        except ValidationError as error:
            logging.getLogger("dsr").error("%s", _first_problem(error))
            sys.exit(1)

    return wrapper


def _first_problem(error: ValidationError) -> str:
    """Say on one line what is wrong with a specification; `error.title` is its kind."""
    problem, *others = error.errors(include_url=False)
    place = "".join(f"{part}: " for part in [".".join(map(str, problem["loc"]))] if part)
    given = "" if problem["type"] in ("missing", "json_invalid") else f" (given: {str(problem['input'])[:80]})"
    more = f"; and {len(others)} more" if others else ""
    return (
        f"--spec: not the JSON of {error.title}: {place}{problem['msg']}{given}{more}. The workflow's rules write it;"
        " `dsr/config` describes it"
    )
