"""Fused kernels in Triton's interpreter, and what runs instead where they or the compiler do not work."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import torch

import dsr.denoiser
from dsr.compilation import compile_each
from dsr.denoiser import accelerate, layers
from dsr.denoiser.dit import LightningDiT


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="PyTorch was built without Triton")
def test_fused_kernels_equal_the_reference() -> None:
    # A process must ask for the interpreter before anything imports Triton.
    tests = Path(__file__).with_name("interpreted_fused.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", str(tests)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def failing(error: BaseException) -> SimpleNamespace:
    """Something in the place of `dsr.denoiser.fused` that fails as Triton does."""

    def run_blocks(*_: object) -> NoReturn:
        raise error

    return SimpleNamespace(run_blocks=run_blocks)


def tiny_denoiser() -> LightningDiT:
    return LightningDiT(input_size=2, in_channels=4, hidden_size=16, depth=2, num_heads=2, num_classes=3)


@pytest.mark.parametrize(
    "error",
    [
        subprocess.CalledProcessError(1, "gcc"),
        PermissionError("/home/nobody/.triton"),
        AssertionError("no launcher"),
        RuntimeError("no kernel image"),
        ImportError("no triton"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_triton_fails_with_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    monkeypatch.setattr(dsr.denoiser, "fused", failing(error), raising=False)
    with caplog.at_level(logging.WARNING):
        assert not accelerate._fused_kernels_run(torch.device("cpu"))
    assert f"No fused kernels ({type(error).__name__}: {error}); the blocks are compiled by PyTorch" in caplog.text


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("runs", [True, False])
def test_blocks_are_compiled_where_fused_kernels_do_not_run(
    monkeypatch: pytest.MonkeyPatch, device: str, runs: bool
) -> None:
    fused = failing(AssertionError())
    monkeypatch.setattr(dsr.denoiser, "fused", fused, raising=False)
    monkeypatch.setattr(accelerate, "_fused_kernels_run", lambda _: runs)
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(accelerate, "compile_each", compiled.extend)
    model = tiny_denoiser()
    accelerate.accelerate(model, torch.device(device))
    if runs and device == "cuda":
        assert (model.run_blocks, compiled) == (fused.run_blocks, [model.final_layer])
    else:
        assert (model.run_blocks, compiled) == (layers.run_blocks, [model.final_layer, *model.blocks])


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def broken(*arguments: object, **_: object) -> NoReturn:
        tried.append(arguments)
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
    layer, x = layers.SwiGLU(8, 4.0), torch.randn(2, 8)
    expected = layer(x)
    with torch._dynamo.config.patch(suppress_errors=False):
        compile_each([layer])
        assert torch.equal(layer(x), expected)
    assert tried
