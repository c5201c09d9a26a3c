"""The one kind of error that a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Wrong input; the message names the file or key, what was expected and what to do."""
