"""How a command ends that cannot go on: errors that a user can mend, in one line, and a stop."""

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The register library does without pydantic.
    from pydantic import ValidationError

EXIT_STOPPED = 75
"""Exit code of a trainer that saved its state and left before its milestone (EX_TEMPFAIL of sysexits.h)."""


class UserError(ValueError):
    """Wrong input; the message names the file or key, what was expected and what to do."""


_REMEDIES = {
    "make room there (or in your quota) and run the command again": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "check who may read and write it, or give another place": (errno.EACCES, errno.EPERM),
    "give a place that can be written to": (errno.EROFS,),
    "check the path": (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    "move or remove what is there": (errno.EEXIST, errno.ENOTEMPTY),
    "use a shorter path": (errno.ENAMETOOLONG,),
    "its file system lacks locks or another feature: give a place on another one": (
        errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS,
    ),
    "ask for more memory (`resources`)": (errno.ENOMEM,),
    "raise the limits of files and processes (`ulimit -n`, `ulimit -u`), or use fewer workers": (
        errno.EMFILE, errno.ENFILE, errno.EAGAIN,
    ),
    "see whether the disk, or its server, is well, and run the command again": (errno.EIO, errno.ESTALE),
}  # fmt: skip


def explain(error: Exception) -> str | None:
    """Say on one line what the system refused, of which file, and what to do; None if it was not the system."""
    # PyTorch's for GPUs and for CPUs, TensorFlow's.
    kinds = "OutOfMemoryError", "ResourceExhaustedError"
    if isinstance(error, MemoryError) or type(error).__name__ in kinds or "can't allocate memory" in str(error):
        return f"not enough memory ({_line(error)}); ask for more, or for less at a time (`resources`, `execution`)"
    if "DataLoader worker (pid" in str(error):
        # Without a class, and raised wherever the process is when one that reads ahead for it ends.
        remedy = "ask for more memory (resources.*.mem_mb), or lower execution.workers"
        return f"{_line(error)}: probably for want of memory; {remedy}"
    if isinstance(error, UnicodeEncodeError | UnicodeDecodeError):
        return f"{error.object!r:.120}: not valid {error.encoding}; rename the file, or save its text as UTF-8"
    if not isinstance(error, OSError):
        return None
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    text = ": ".join(filter(None, [name, error.strerror if error.errno else _line(error)]))
    remedy = next((remedy for remedy, numbers in _REMEDIES.items() if error.errno in numbers), "run the command again")
    for variable, value in os.environ.items():
        named = value == name if name else os.path.isabs(value) and value in text
        if named and not os.path.exists(value):
            remedy = f"the environment variable {variable} names {value}, which does not exist: unset or correct it"
    return f"{text}; {remedy}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def problems(error: "ValidationError") -> list[str]:
    """Say of each wrong value on one line 'key: what was expected (given: value)'."""
    found = []
    for problem in error.errors(include_url=False):
        kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden":
            message = "unknown key"
        elif kind not in ("missing", "json_invalid") and not isinstance(problem["input"], dict):
            message += f" (given: {problem['input']!r:.80})"
        found.append(": ".join(filter(None, [".".join(map(str, problem["loc"])), message])))
    return found


def first_problem(error: "ValidationError") -> str:
    """Say what is wrong with the first wrong value, and how many more there are."""
    first, *others = problems(error)
    return f"{first}; and {len(others)} more" if others else first
