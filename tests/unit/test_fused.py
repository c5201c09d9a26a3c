"""Fused kernels in Triton's interpreter, and what runs instead where they or the compiler do not work."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

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


def tiny_denoiser() -> LightningDiT:
    return LightningDiT(input_size=2, in_channels=4, hidden_size=16, depth=2, num_heads=2, num_classes=3)


class FusedBlocks:
    """Stands in for a way to run blocks by kernels; fails like Triton does if there is an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def __call__(self, *arguments: Any) -> torch.Tensor:
        if self.error is not None:
            raise self.error
        return layers.run_blocks(*arguments)


Use = Callable[..., list[tuple[str, dict[str, bool]]]]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Replace the ways that there are on a Hopper GPU by one that works or fails; returns the list of those made."""

    def replace(error: BaseException | None = None, *, hopper: bool = True) -> list[tuple[str, dict[str, bool]]]:
        made: list[tuple[str, dict[str, bool]]] = []

        def fused(**options: bool) -> FusedBlocks:
            made.append(("fused", options))
            return FusedBlocks(error)

        def frozen(_: object, **options: bool) -> FusedBlocks:
            made.append(("frozen", options))
            return FusedBlocks(error)

        for name, module in {
            "fused": SimpleNamespace(FusedBlocks=fused),
            "frozen": SimpleNamespace(FrozenBlocks=frozen),
            "products": SimpleNamespace(runs_on=lambda _: hopper),
        }.items():
            monkeypatch.setattr(dsr.denoiser, name, module, raising=False)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
        return made

    return replace


@pytest.mark.parametrize(
    "error",
    [
        subprocess.CalledProcessError(1, "gcc"),
        PermissionError("/home/nobody/.triton"),
        AssertionError("no launcher"),
        RuntimeError("no kernel image"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_triton_fails_with_is_a_warning(
    use: Use, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    made, model = use(error), tiny_denoiser()
    with caplog.at_level(logging.WARNING):
        assert not accelerate._fuse(model, torch.device("cpu"), "bf16")
    assert made == [("fused", {"turn_in_product": True}), ("fused", {"turn_in_product": False})]
    assert caplog.text.count(f"FusedBlocks do not run here ({type(error).__name__}: {error})") == 2
    assert "No fused kernels; the blocks are compiled by PyTorch instead" in caplog.text
    assert model.run_blocks is layers.run_blocks


def test_a_pytorch_without_triton_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("fused", "frozen", "products"):
        monkeypatch.delattr(dsr.denoiser, name, raising=False)
        monkeypatch.setitem(sys.modules, f"dsr.denoiser.{name}", None)
    with caplog.at_level(logging.WARNING):
        assert not accelerate._fuse(tiny_denoiser(), torch.device("cpu"), "tf32")
    assert "No fused kernels (" in caplog.text


@pytest.mark.parametrize(
    ("precision", "frozen", "hopper", "expected"),
    [
        ("tf32", False, True, ("fused", {"turn_in_product": False})),
        ("tf32", True, True, ("fused", {"turn_in_product": False})),
        ("bf16", False, True, ("fused", {"turn_in_product": True})),
        ("bf16", False, False, ("fused", {"turn_in_product": False})),
        ("bf16", True, True, ("frozen", {"eight_bits": False})),
        ("bf16", True, False, ("fused", {"turn_in_product": False})),
        ("fp8", True, True, ("frozen", {"eight_bits": True})),
    ],
)
def test_the_fastest_way_that_a_model_and_its_gpu_allow_is_taken(
    use: Use, precision: str, frozen: bool, hopper: bool, expected: tuple[str, dict[str, bool]]
) -> None:
    made, model = use(hopper=hopper), tiny_denoiser().requires_grad_(not frozen)
    assert accelerate._fuse(model, torch.device("cpu"), precision)
    assert made[0] == expected
    assert isinstance(model.run_blocks, FusedBlocks)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_blocks_are_compiled_where_fused_kernels_do_not_run(
    monkeypatch: pytest.MonkeyPatch, device: str, runs: bool, precision: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(accelerate, "_fuse", lambda *arguments: asked.append(arguments[2]) or runs)
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(accelerate, "compile_each", compiled.extend)
    model = tiny_denoiser()
    accelerate.accelerate(model, torch.device(device), precision)
    tried = device == "cuda" and precision == "tf32"
    assert asked == [precision] * tried
    assert compiled == [model.final_layer, *([] if tried and runs else model.blocks)]


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
