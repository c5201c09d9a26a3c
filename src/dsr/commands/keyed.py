"""Arguments of the form `key=path`, as the report's commands take them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dsr.base.errors import UserError


def keyed_paths(arguments: Sequence[str]) -> dict[str, Path]:
    """Parse `key=path` arguments, keeping their order.

    Raises:
        UserError: if one has no key or no path, or a key is given twice.
    """
    paths: dict[str, Path] = {}
    for argument in arguments:
        key, _, path = argument.partition("=")
        if not key or not path:
            raise UserError(f"'{argument}' is not of the form key=path")
        if key in paths:
            raise UserError(f"'{key}' is given twice: {paths[key]} and {path}")
        paths[key] = Path(path)
    return paths
