"""How a command ends that cannot go on: the one kind of error that a user can mend, and a stop."""

from __future__ import annotations

from pydantic import ValidationError

EXIT_STOPPED = 75
"""Exit code of a trainer that saved its state and left before its milestone (EX_TEMPFAIL of sysexits.h)."""


class UserError(ValueError):
    """Wrong input; the message names the file or key, what was expected and what to do."""


def problems(error: ValidationError) -> list[str]:
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


def first_problem(error: ValidationError) -> str:
    """Say what is wrong with the first wrong value, and how many more there are."""
    first, *others = problems(error)
    return f"{first}; and {len(others)} more" if others else first
