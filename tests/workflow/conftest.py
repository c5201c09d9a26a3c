"""A checkout of its own for the workflow tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import SERVER, be_module, ended

ROOT = Path(__file__).resolve().parents[2]
TINY = ("profiles/demo/config-overlay.yaml", "tests/workflow/tiny.yaml")


@dataclass(frozen=True)
class Checkout:
    """A copy of the project in which Snakemake runs as a user would run it."""

    folder: Path
    overlays: tuple[str, ...] = TINY

    def snakemake(self, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run Snakemake, with the programs in ``path``, if any; stdout and stderr together in ``stdout``."""
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
            process = SERVER.Process(target=run_here, args=(self.folder, log.name, _programs(path), arguments))
            process.start()
            (code,) = ended(process, seconds=1800)
            return subprocess.CompletedProcess(arguments, code, log.read())

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs; stdout and stderr together."""
        return subprocess.run(
            command, cwd=self.folder, env={**os.environ, "PATH": _programs()}, text=True, timeout=1800,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip

    def tiny(self, *arguments: str, overlays: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run the tiny workflow, or parts of it."""
        files = (*self.overlays, *overlays)
        return self.snakemake(*arguments, "--profile", "profiles/demo", "--configfile", *files, "--cores", "2")

    def status(self, results: str = "results/demo") -> subprocess.CompletedProcess[str]:
        """Ask where the rows stand."""
        return self.run("python", "-m", "dsr.commands.status", f"{results}/status.json")

    def plan(self, *arguments: str, change: dict[str, Any] | None = None) -> tuple[dict[str, int], str]:
        """Return jobs by rule, and all that is said, of a dry run with a ``change`` of the configuration."""
        run = self.changed(change, "-n", *arguments) if change else self.snakemake("-n", *arguments)
        assert run.returncode == 0, run.stdout[-5000:]
        return job_counts(run.stdout), run.stdout

    def refused(self, change: dict[str, Any], message: str) -> None:
        """Check that a changed configuration is one clear error."""
        run = self.changed(change, "-n", "results/table1.md")
        assert run.returncode != 0
        assert message in run.stdout
        assert "Traceback" not in run.stdout
        assert job_counts(run.stdout) == {}

    def changed(self, change: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with a changed configuration; a `--configfile` among the arguments is the last option."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as overlay:
            yaml.safe_dump(change, overlay)
            overlay.flush()
            option = () if "--configfile" in arguments else ("--configfile",)
            return self.snakemake(*arguments, *option, overlay.name)

    def planned(self, *arguments: str, overlays: tuple[str, ...] = ()) -> dict[str, int]:
        """Jobs that a dry run of the tiny workflow plans, by rule."""
        return job_counts(self.tiny(*arguments, "-n", overlays=overlays).stdout)


def _programs(path: Path | None = None) -> str:
    return f"{path or ''}:{Path(sys.executable).parent}:{os.environ['PATH']}".lstrip(":")


def run_here(folder: Path, log: str, programs: str, arguments: tuple[str, ...]) -> None:
    """Become a Snakemake process."""
    os.chdir(folder)
    os.environ["PATH"] = programs
    be_module(log, "snakemake", arguments)


def job_counts(output: str) -> dict[str, int]:
    """Read the 'Job stats' table of a Snakemake run."""
    counts: dict[str, int] = {}
    lines = iter(output.splitlines())
    for line in lines:
        if line.startswith("job ") and "count" in line:
            next(lines)
            for entry in lines:
                if not entry.strip() or entry.startswith("total"):
                    return counts
                name, count = entry.split()
                counts[name] = int(count)
    return counts


def copy_checkout(folder: Path) -> Checkout:
    """Copy the files that belong to the project (no results, no environment)."""
    folders = ("rules", "envs", "src", "profiles", "slurm", "docs", "tests/workflow")
    for name in ("Snakefile", "Snakefile.demo", "config.yaml", *folders):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    return Checkout(folder)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Return a checkout in which nothing has run."""
    return copy_checkout(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of two photographs, not square; classes of unequal size, one of a name with a blank."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("my photos")
    for name, image, count in zip(("a temple", "flower"), load_sample_images().images, (40, 120), strict=True):
        for number in range(count):
            path = folder / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image[number : number + 60, number : number + 80]).save(path)
    return folder
