from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from dsr.environments import requirements

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "envs").glob("*.yaml"))


def test_this_environment_has_the_pinned_versions() -> None:
    for line in requirements(FILES):
        name, _, pinned = line.partition("==")
        installed, _, _build = version(name).partition("+")
        assert installed == pinned, f"{name} {installed} is installed, envs/ says {pinned}: run `make setup`"


def test_disagreeing_pins_are_refused(tmp_path: Path) -> None:
    for name, pin in (("a", "numpy==2.1.3"), ("b", "numpy==2.2.0")):
        (tmp_path / f"{name}.yaml").write_text(f"dependencies:\n  - pip:\n      - {pin}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="they must agree"):
        requirements([tmp_path / "a.yaml", tmp_path / "b.yaml"])


def test_loose_pins_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("dependencies:\n  - pip:\n      - numpy>=2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not an exact pin"):
        requirements([tmp_path / "a.yaml"])
