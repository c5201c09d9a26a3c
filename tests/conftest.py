"""The order of the tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest, so that no process has to wait for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_finished_run.py")
