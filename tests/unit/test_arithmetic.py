from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import torch

from dsr.accel.arithmetic import set_arithmetic, usable_precision


@pytest.mark.parametrize(
    ("precision", "device", "supported", "used"),
    [
        ("bf16", "cuda", True, "bf16"),
        ("bf16", "cuda", False, "fp32"),
        ("tf32", "cuda", False, "tf32"),
        ("bf16", "cpu", False, "bf16"),
    ],
)
def test_a_gpu_without_bf16_computes_in_fp32_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    precision: str,
    device: str,
    supported: bool,
    used: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Old GPU")
    with caplog.at_level(logging.WARNING):
        assert usable_precision(precision, torch.device(device)) == used
    assert ("Old GPU has no bf16 arithmetic; computing in fp32 instead" in caplog.text) == (used != precision)


@pytest.mark.parametrize(("capability", "used"), [((9, 0), "fp8"), ((8, 9), "bf16")])
def test_a_gpu_without_the_eight_bit_products_computes_in_bf16_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capability: tuple[int, int], used: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Ada")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with caplog.at_level(logging.WARNING):
        assert usable_precision("fp8", torch.device("cuda")) == used
    assert ("Ada has no fp8 products that are used here; computing in bf16" in caplog.text) == (used == "bf16")


@pytest.fixture
def restored() -> Iterator[None]:
    """Set the process-wide arithmetic back afterwards."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_fp16_reduced_precision_reduction, products.allow_tf32, convolutions.allow_tf32
    yield
    products.allow_fp16_reduced_precision_reduction, products.allow_tf32, convolutions.allow_tf32 = before


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", True)])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.usefixtures("restored")
def test_the_process_computes_as_it_is_told(
    monkeypatch: pytest.MonkeyPatch, precision: str, tf32: bool, deterministic: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not tf32
    threads = torch.get_num_threads()
    set_arithmetic(precision, deterministic=deterministic)
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == tf32
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    assert asked == [deterministic]
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == deterministic
    assert torch.get_num_threads() == threads
