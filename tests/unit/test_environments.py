from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from pins import pip_section, requirements

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "envs").glob("*.yaml"))


def test_this_environment_has_the_pinned_versions() -> None:
    for line in requirements(FILES):
        name, _, pinned = line.partition("==")
        installed, _, _build = version(name).partition("+")
        assert installed == pinned, f"{name} {installed} is installed, envs/ says {pinned}: run `make setup`"


def needed(pins: list[str]) -> set[str]:
    """Names of the distributions that pins bring along, as far as they are installed here."""
    found: set[str] = set()
    queue = [Requirement(pin) for pin in pins if not pin.startswith("--")]
    while queue:
        wanted = queue.pop()
        key = (name := re.sub(r"[-_.]+", "-", wanted.name).lower()) + "".join(sorted(wanted.extras))
        if key in found:
            continue
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:  # for another platform, or CUDA's
            continue
        found |= {key, name}
        extras = ["", *wanted.extras]
        for line in map(Requirement, lines):
            if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in extras):
                queue.append(line)
    return found


def commands() -> dict[str, set[str]]:
    """Commands that rules run, by environment; what stands above a file's rules may be used by any of them."""
    found: dict[str, set[str]] = {"workflow": {"dsr.commands.status", "dsr.commands.fetch", "dsr.report.published"}}
    for path in sorted((ROOT / "rules").glob("*.smk")):
        head, *rules = re.split(r"^\s*rule \w+:", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for rule in (rule for rule in rules if "shell:" in rule):
            environment = re.search(r"envs/(\w+)\.yaml", rule)
            name = "workflow" if environment is None else environment[1]
            found.setdefault(name, set()).update(re.findall(r"dsr\.commands\.\w+", head + rule))
    return found


IMPORT_ONLY_WITH = """
import importlib, json, re, sys
hidden, there, modules = map(set, json.loads(sys.argv[1]))
class Only:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, path, target)
    def find_distributions(self, *context):
        found = getattr(self.finder, "find_distributions", lambda *context: [])(*context)
        return [each for each in found if re.sub(r"[-_.]+", "-", each.name).lower() in there]
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Only, sys.meta_path)
for module in sorted(modules):
    importlib.import_module(module)
# It takes seconds, and one kind of encoder needs it.
assert "transformers" not in sys.modules
"""


@pytest.mark.parametrize("name", ["workflow", "torch", "tensorflow"])
def test_commands_import_nothing_that_their_environment_lacks(name: str) -> None:
    there = needed(pip_section(ROOT / f"envs/{name}.yaml")) | {"dsr", "pip", "setuptools"}
    hidden = [
        module
        for module, names in packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", name).lower() in there for name in names)
    ]
    assert ("snakemake" in hidden) == (name != "workflow")
    modules = commands()[name]
    assert modules
    lists = json.dumps([hidden, sorted(there), sorted(modules)])
    done = subprocess.run([sys.executable, "-c", IMPORT_ONLY_WITH, lists], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_jobs_that_compute_nothing_start_without_pytorch() -> None:
    code = "import sys, dsr.commands.prepare, dsr.commands.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("pins", "message"), [(["numpy==2.1.3", "numpy==2.2.0"], "they must agree"), (["numpy>=2"], "not an exact pin")]
)
def test_disagreeing_and_loose_pins_are_refused(tmp_path: Path, pins: list[str], message: str) -> None:
    for pin in pins:
        (tmp_path / f"{pin}.yaml").write_text(f"dependencies:\n  - pip:\n      - {pin}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        requirements(sorted(tmp_path.iterdir()))
