"""A program from a function: its typed arguments are the options, its docstring is their help."""

import contextlib
import functools
import itertools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import tyro
from pydantic import BaseModel, ValidationError
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dsr.base.errors import UserError, explain, first_problem
from dsr.base.files import check_writable

log = logging.getLogger("dsr")


def command(main: Callable[..., None] | None = None, **steps: Callable[..., None]) -> Callable[[], None]:
    """Return a program that runs ``main``, or the one of several ``steps`` that its first argument names.

    A function's parameters, or the fields of the dataclass that is its parameter, are the options. Specifications and
    sections of the configuration are given as JSON, or as a file of it.
    """

    def run() -> None:
        # In cluster jobs it comes blocked, so that torchrun does not act on it (dsr.launch.slurm).
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        registry = ConstructorRegistry()
        registry.primitive_rule(_json_of_a_model)
        program = f"python -m {name}" if (name := module()) else None
        options: dict[str, Any] = {"registry": registry, "config": (tyro.conf.OmitArgPrefixes,), "prog": program}
        with logged():
            try:
                if main is not None:
                    later = tyro.cli(_deferred(main), **options)
                else:
                    deferred = {name: _deferred(step) for name, step in steps.items()}
                    later = tyro.extras.subcommand_cli_from_dict(deferred, **options)
            except SystemExit as end:
                # After the help, which would wrap lines that are to be pasted.
                sys.stdout.write("" if end.code else examples())
                raise
            later()

    return run


def module() -> str | None:
    """Name of the module that runs as the program, if `python -m` started it."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else None


def examples() -> str:
    """Return the program's command lines in `dsr/commands/examples.sh`, for its help."""
    text = (resources.files("dsr") / "commands/examples.sh").read_text(encoding="utf-8")
    own = [part for part in text.split("\n\n") if f"python -m {module()} " in part]
    return "\n".join(["For example, after `make demo`:", *own, ""]) if own else ""


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """Log to stderr with the time, and let errors end there, with exit code 1.

    What a user can mend, and what the system refuses, is one line; where it happened follows at the level DEBUG. A
    mistake of the program is a traceback. Processes other than the first report warnings only; the environment variable
    DSR_LOG_LEVEL gives another level.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    # PyTorch raises from a signal handler when a loader's worker dies, maybe while a line is written; it raises again
    # where images are waited for, and a traceback of the line would say nothing.
    logging.raiseExceptions = False
    logging.basicConfig(
        level=os.environ.get("DSR_LOG_LEVEL", "INFO" if first else "WARNING"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    try:
        yield
        return
    except KeyboardInterrupt:
        log.error("interrupted")
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else explain(error)
        if message is None:
            log.exception("a mistake in the program itself")
        else:
            log.error("%s", message)
            log.debug("where it happened", exc_info=True)
    sys.exit(1)


def _deferred(step: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Keep errors of the function itself apart from those of its command line, which tyro reports.

    That what it writes can be written, its `output` or that of an argument, is seen before.
    """

    @functools.wraps(step)
    def later(**arguments: Any) -> Callable[[], None]:
        def run() -> None:
            found = [arguments.get("output"), *(getattr(value, "output", None) for value in arguments.values())]
            for output in itertools.chain.from_iterable(one if isinstance(one, tuple) else [one] for one in found):
                if isinstance(output, Path):
                    check_writable(output)
            step(**arguments)

        return run

    return later


def _json_of_a_model(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if not (isinstance(info.type, type) and issubclass(info.type, BaseModel)):
        return None
    model: type[BaseModel] = info.type
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda texts: _read(model, texts[0]),
        is_instance=lambda value: isinstance(value, model),
        str_from_instance=lambda value: [value.model_dump_json(exclude_defaults=True)],
    )


def _read(model: type[BaseModel], text: str) -> BaseModel:
    if not text.startswith(("{", "[")):
        text = Path(text).read_text(encoding="utf-8")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        log.error(
            "not the JSON of %s: %s. The workflow's rules write it; `dsr/config` describes it",
            error.title, first_problem(error),
        )  # fmt: skip
        sys.exit(1)
