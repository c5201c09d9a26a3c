"""The order of the tests, and what their processes have in common."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Else transformers loads the TensorFlow that is installed beside PyTorch.
os.environ["USE_TF"] = "0"
# What tests start runs the package of this checkout too.
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1] / "src")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest, so that no process has to wait for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_finished_run.py")
