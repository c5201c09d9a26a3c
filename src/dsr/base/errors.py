"""How a command ends that cannot go on: the one kind of error that a user can mend, and a stop."""

from __future__ import annotations

EXIT_STOPPED = 75
"""Exit code of a trainer that saved its state and left before its milestone (EX_TEMPFAIL of sysexits.h)."""


class UserError(ValueError):
    """Wrong input; the message names the file or key, what was expected and what to do."""
