"""Fused kernels in Triton's interpreter, and what runs instead where they or the compiler do not work."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch

import dsr.accel
from dsr.accel import models
from dsr.accel.device import HALF, autocast
from dsr.accel.models import compile_each
from dsr.config.specs import ModelSpec
from dsr.config.training import Dit
from dsr.denoiser import layers
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
    network = Dit(kind="dit", hidden_size=16, depth=2, num_heads=2)
    return LightningDiT(ModelSpec(denoiser=network, registers=0, channels=4, grid=2, classes=3), network)


class FusedBlocks:
    """Stands in for a way to run blocks by kernels; fails like Triton does if there is an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def __call__(self, *arguments: Any) -> torch.Tensor:
        if self.error is not None:
            raise self.error
        return layers.run_blocks(*arguments)


Made = list[str]
Use = Callable[..., Made]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Replace the ways that there are on a GPU by some that work and ``failing`` ones; lists those that were made."""

    def replace(*failing: str, error: BaseException, capability: int = 9) -> Made:
        made: Made = []

        def make(name: str) -> FusedBlocks:
            made.append(name)
            return FusedBlocks(error if name in failing else None)

        for name, contents in {
            "fused": {
                "FusedBlocks": lambda *, fuse_rope: make(ROPE if fuse_rope else PLAIN),
                "FrozenBlocks": lambda _: make(FROZEN),
            },
            "matmul": {"runs_on": lambda _: capability >= 9},
            "flash_attention": {"runs_on": lambda _: capability >= 8},
        }.items():
            monkeypatch.setattr(dsr.accel, name, SimpleNamespace(**contents), raising=False)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
        return made

    return replace


PLAIN, ROPE, FROZEN = "fused kernels", "matmuls fused with RoPE", "matmuls fused with RoPE and SwiGLU"
CPU = torch.device("cpu")


@pytest.mark.parametrize("error", [ImportError("no triton"), AttributeError("another Triton")], ids=repr)
def test_a_triton_that_cannot_be_imported_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> NoReturn:
            raise error

    monkeypatch.setitem(sys.modules, "dsr.accel", Broken())
    assert not models._fuse(tiny_denoiser(), CPU, "tf32")
    assert "Not available here: fused kernels (" in caplog.text
    assert "the blocks are compiled by PyTorch instead" in caplog.text


@pytest.mark.parametrize(
    ("precision", "trained", "capability", "expected"),
    [
        ("tf32", True, 9, [PLAIN]),
        ("tf32", False, 9, [PLAIN]),
        ("bf16", True, 9, [ROPE]),
        ("bf16", True, 8, [PLAIN]),
        ("bf16", False, 9, [FROZEN]),
        ("bf16", False, 8, [PLAIN]),
        ("fp16", True, 9, [ROPE]),
        ("fp16", False, 9, [FROZEN]),
        ("tf32", True, 7, []),
    ],
)
def test_the_fastest_way_that_a_model_and_its_gpu_allow_is_taken(
    use: Use, caplog: pytest.LogCaptureFixture, precision: str, trained: bool, capability: int, expected: Made
) -> None:
    made, model = use(error=RuntimeError(), capability=capability), tiny_denoiser().requires_grad_(trained)
    assert models._fuse(model, CPU, precision) == bool(expected)
    assert made == expected
    assert isinstance(model.run_blocks, FusedBlocks) == bool(expected)
    assert ("they need an Ampere GPU" in caplog.text) == (not expected)


@pytest.mark.parametrize(
    ("error", "trained", "failing", "instead"),
    [
        (subprocess.CalledProcessError(1, "gcc"), True, (ROPE, PLAIN), "the blocks are compiled by PyTorch instead"),
        (PermissionError("/nowhere/.triton"), True, (ROPE, PLAIN), "the blocks are compiled by PyTorch instead"),
        (AssertionError("strides must be 16-byte aligned"), False, (FROZEN,), f"{PLAIN} are used instead"),
        (RuntimeError("no kernel image"), True, (ROPE,), f"{PLAIN} are used instead"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_way_that_does_not_run_is_replaced_by_the_next_and_one_warning_says_so(
    use: Use,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    trained: bool,
    failing: tuple[str, ...],
    instead: str,
) -> None:
    made, model = use(*failing, error=error), tiny_denoiser().requires_grad_(trained)
    assert models._fuse(model, CPU, "bf16") == (PLAIN not in failing)
    assert made == [failing[0], PLAIN]
    assert (model.run_blocks is layers.run_blocks) == (PLAIN in failing)
    why = "; ".join(f"{name} ({type(error).__name__}: {error})" for name in failing)
    assert caplog.messages == [f"Not available here: {why}; {instead}"]


@pytest.mark.parametrize("room", [3, 0])
def test_kernels_are_tried_with_fewer_images_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, use: Use, room: int
) -> None:
    tried: list[int] = []

    def short(_: object, __: object, ___: object, images: int) -> None:
        tried.append(images)
        if images > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(models, "_pass", short)
    use(error=RuntimeError())
    assert models._fuse(tiny_denoiser(), CPU, "tf32") == bool(room)
    assert tried == ([16, 8, 4, 2] if room else [16, 8, 4, 2, 1])


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_blocks_are_compiled_where_fused_kernels_do_not_run(
    monkeypatch: pytest.MonkeyPatch, device: str, runs: bool, precision: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(models, "_fuse", lambda *arguments: asked.append(arguments[2]) or runs)
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(models, "compile_each", compiled.extend)
    model = tiny_denoiser()
    models.accelerate(model, torch.device(device), precision)
    tried = device == "cuda" and precision == "tf32"
    assert asked == [precision] * tried
    assert compiled == [model.final_layer, *([] if tried and runs else model.blocks)]


def test_code_compiled_for_bf16_is_not_used_for_fp16() -> None:
    layer, x = layers.SwiGLU(8, 4.0), torch.randn(2, 8)
    compile_each([layer])
    for precision, dtype in HALF.items():
        with torch.no_grad(), autocast(CPU, precision):  # else nothing is kept on disk before a backward pass
            assert layer(x).dtype == dtype


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
