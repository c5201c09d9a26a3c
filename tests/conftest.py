"""The order of the tests, and what their processes have in common."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Else transformers loads the TensorFlow that is installed beside PyTorch.
os.environ["USE_TF"] = "0"
# There are more processes than cores, and threads that wait for each other there do so in vain.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Else each of hundreds of processes compiles the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# As TensorFlow computes convolutions by itself on newer CPUs, in half the time.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# What tests start runs the package of this checkout too.
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1] / "src")


LONGEST = (
    "test_finished_run.py",
    "test_check.py",
    "test_training_processes.py",
    "test_fused.py",
    "test_documented_commands.py",
    "test_local_copies.py",
    "test_profiles.py",
    "test_jobs.py",
    "test_plan.py",
    "test_sampling.py",
    "test_demo.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process has to wait for one of them at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
