"""What other programs on the machine say."""

import subprocess
from pathlib import Path
from typing import Any


def git_state(folder: Path) -> dict[str, Any]:
    """Return the commit of a git checkout, None for what is none, and whether files differ from it."""
    commit = output_of("git", "-C", str(folder), "rev-parse", "HEAD")
    changes = output_of("git", "-C", str(folder), "status", "--porcelain") if commit else None
    return {"commit": commit, "dirty": bool(changes)}


def output_of(*command: str) -> str | None:
    """Output of a command, stripped; None where it is not installed, fails, or takes more than a minute."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
