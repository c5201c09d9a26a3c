"""Whether the pins of envs/ can be installed: `make test-environments` asks the package index, and installs nothing.

The jobs' environments are resolved for Python 3.10 on Linux x86-64 from wheels only, whatever runs this. The
workflow's and the developers' are resolved for the Python that runs this, if it is theirs: pip resolves for another
Python from wheels only, and one of Snakemake's dependencies has none.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from pins import pip_section

ROOT = Path(__file__).resolve().parents[2]
JOBS, OWN = ("torch", "tensorflow"), ("workflow", "develop")
RESOLVER = "pip==26.3"
"""With `fast-deps` it reads wheels' metadata instead of downloading gigabytes; older ones do both."""
CUDA_INDEX = "https://download.pytorch.org/whl/cu129"
SOURCE_ONLY = "connection_pool"
"""Needed by Snakemake; published without a wheel."""
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
PLATFORMS += [f"manylinux{year}_x86_64" for year in ("2014", "2010", "1")]


Run = Callable[..., subprocess.CompletedProcess[str]]


def python_of(name: str) -> str:
    """Python version of an environment, as 3.10."""
    found = re.search(r"- python=(\d+\.\d+)", (ROOT / f"envs/{name}.yaml").read_text(encoding="utf-8"))
    return found[1]


def reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False


@pytest.fixture(scope="session")
def resolve(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Find versions of all dependencies, without installing anything; skip where no package index answers."""
    folder = tmp_path_factory.mktemp("pip")

    def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pip", "install", "--no-input", "--progress-bar", "off", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)

    done = pip("--quiet", "--retries", "1", "--timeout", "20", "--target", str(folder), RESOLVER)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"no package index can be reached ({reason}); nothing about envs/ was proved")
    return functools.partial(pip, "--dry-run", "--ignore-installed", "--use-feature=fast-deps")


@pytest.mark.parametrize("name", JOBS)
def test_wheels_for_the_jobs_python(resolve: Run, tmp_path: Path, name: str) -> None:
    entries = pip_section(ROOT / f"envs/{name}.yaml")
    without_index = CUDA_INDEX in " ".join(entries) and not reachable(f"{CUDA_INDEX}/torch/")
    if without_index:
        # The label of the CUDA build names an index, not another version.
        entries = [re.sub(r"\+cu\d+$", "", entry) for entry in entries if not entry.startswith("--")]
    words = [word for entry in entries for word in entry.split()]
    target = ["--python-version", python_of(name), "--implementation", "cp", "--only-binary=:all:"]
    target += [word for tag in PLATFORMS for word in ("--platform", tag)]
    done = resolve(*words, *target, "--target", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert python_of(name) == "3.10"
    found = done.stdout.splitlines()[-1].lower().replace("_", "-").split()
    for entry in entries:
        pinned, _, version = entry.partition("==")
        assert not version or f"{pinned.partition('[')[0].lower().replace('_', '-')}-{version}" in found
    if without_index:
        pytest.skip(f"{CUDA_INDEX} cannot be reached: that these versions fit was proved, their +cu129 builds were not")


@pytest.mark.parametrize("name", OWN)
def test_the_workflows_own_python(resolve: Run, name: str) -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != python_of(name) or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip(f"envs/{name}.yaml is for Python {python_of(name)} on Linux x86-64, this is {here}; not proved")
    done = resolve(*pip_section(ROOT / f"envs/{name}.yaml"), "--only-binary=:all:", f"--no-binary={SOURCE_ONLY}")
    assert done.returncode == 0, done.stderr[-3000:]
