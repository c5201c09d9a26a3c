"""Turn the `pip:` sections of conda environment files into one pip requirements file.

`envs/*.yaml` is the only place where versions stand. The local environment installs the same versions from the
package index at hand: index options, the CUDA build label and the CUDA extra are left out, because they name where
a package comes from and not which one it is. Runs on the standard library alone, before anything is installed:

    python envs/pins.py envs/torch.yaml envs/tensorflow.yaml > requirements.txt
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(\[and-cuda\])?==(?P<version>[^+\s]+)(\+cu\d+)?$")


def requirements(files: list[Path]) -> list[str]:
    """Return sorted 'name==version' lines of all ``files``.

    Raises:
        ValueError: a line under `pip:` is not an exact pin, or two files pin a package differently.
    """
    pins: dict[str, tuple[str, Path]] = {}
    for file in files:
        for line in pip_section(file):
            if line.startswith("--"):
                continue
            pin = _PIN.match(line)
            if pin is None:
                raise ValueError(f"{file}: '{line}' is not an exact pin; write name==version")
            name, version = pin["name"].lower().replace("_", "-"), pin["version"]
            known, where = pins.setdefault(name, (version, file))
            if known != version:
                raise ValueError(f"{name} is pinned to {known} in {where} and to {version} in {file}; they must agree")
    return sorted(f"{name}=={version}" for name, (version, _) in pins.items())


def pip_section(file: Path) -> list[str]:
    """Return the entries under `pip:` as pip takes them: options and pins, without comments."""
    _, _, section = file.read_text(encoding="utf-8").partition("- pip:\n")
    entries = (line.partition("#")[0].strip() for line in section.splitlines())
    return [entry.removeprefix("- ") for entry in entries if entry]


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements([Path(name) for name in sys.argv[1:]])) + "\n")
