from __future__ import annotations

import os

import pytest
import torch

from dsr.accel.device import set_arithmetic, usable_precision
from dsr.base.errors import UserError

NO_BF16 = "Old GPU has no bf16 arithmetic; computing in fp32 instead"
ON_CPU = "fp16 is arithmetic of GPUs; computing in fp32 on this CPU instead"


@pytest.mark.parametrize(
    ("precision", "device", "bf16", "used", "message"),
    [
        ("bf16", "cuda", True, "bf16", ""),
        ("bf16", "cuda", False, "fp32", NO_BF16),
        ("tf32", "cuda", False, "tf32", ""),
        ("bf16", "cpu", False, "bf16", ""),
        ("fp16", "cuda", False, "fp16", ""),
        ("fp16", "cpu", False, "fp32", ON_CPU),
    ],
)
def test_what_a_device_cannot_is_computed_in_fp32_or_refused(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    precision: str,
    device: str,
    bf16: bool,
    used: str,
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Old GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    assert usable_precision(precision, torch.device(device)) == used
    assert "".join(caplog.messages) == message
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    with pytest.raises(UserError, match="precision: fp16 needs float16 tensor cores, which Old GPU has not"):
        usable_precision("fp16", torch.device("cuda"))


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", True), ("fp16", True)])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.usefixtures("restored_arithmetic")
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
