"""What tests of several rooms start from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dsr.config.load import Config, load
from tests.configuration import merged


@pytest.fixture
def raw() -> dict[str, Any]:
    """Content of config.yaml."""
    return merged()


@pytest.fixture
def config(raw: dict[str, Any]) -> Config:
    """Return the project's configuration."""
    return load(raw)


@pytest.fixture
def restored_arithmetic() -> Iterator[None]:
    """Set PyTorch's process-wide arithmetic back afterwards."""
    matmuls, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmuls.allow_fp16_reduced_precision_reduction, matmuls.allow_tf32, convolutions.allow_tf32
    yield
    matmuls.allow_fp16_reduced_precision_reduction, matmuls.allow_tf32, convolutions.allow_tf32 = before
