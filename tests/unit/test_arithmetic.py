from __future__ import annotations

import logging

import pytest
import torch

from dsr.arithmetic import usable_precision


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
