"""Fused kernels in Triton's interpreter, what runs instead where they or the compiler do not work, and arithmetic."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

import dsr.accel
from dsr.accel import models
from dsr.accel.device import HALF, autocast, set_arithmetic, usable_precision
from dsr.accel.models import compile_each
from dsr.base.errors import UserError
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


Made = list[str]
Use = Callable[..., Made]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Replace the ways that there are on a GPU by some that work and ``failing`` ones; lists those that were made."""

    def replace(*failing: str, error: BaseException, capability: int = 9) -> Made:
        made: Made = []

        def make(name: str) -> Callable[..., torch.Tensor]:
            made.append(name)
            return Mock(side_effect=error if name in failing else layers.run_blocks)

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


def test_a_triton_that_cannot_be_imported_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "dsr.accel", SimpleNamespace())
    assert not models._fuse(tiny_denoiser(), CPU, "tf32")
    assert "Not available here: fused kernels (ImportError" in caplog.text
    assert "the blocks are compiled by PyTorch instead" in caplog.text


COMPILED, NOT_FUSED = "the blocks are compiled by PyTorch instead", f"{PLAIN} are used instead"


@pytest.mark.parametrize(
    ("precision", "trained", "capability", "failing", "made", "instead"),
    [
        ("tf32", True, 9, (), [PLAIN], ""),
        ("tf32", False, 9, (), [PLAIN], ""),
        ("bf16", True, 9, (), [ROPE], ""),
        ("bf16", True, 8, (), [PLAIN], ""),
        ("fp16", False, 9, (), [FROZEN], ""),
        ("bf16", False, 8, (), [PLAIN], ""),
        ("tf32", True, 7, (), [], COMPILED),
        ("bf16", True, 9, (ROPE, PLAIN), [ROPE, PLAIN], COMPILED),
        ("bf16", True, 9, (ROPE,), [ROPE, PLAIN], NOT_FUSED),
        ("bf16", False, 9, (FROZEN,), [FROZEN, PLAIN], NOT_FUSED),
    ],
)
def test_the_fastest_way_that_runs_is_taken_and_one_warning_says_what_does_not(
    use: Use,
    caplog: pytest.LogCaptureFixture,
    precision: str,
    trained: bool,
    capability: int,
    failing: tuple[str, ...],
    made: Made,
    instead: str,
) -> None:
    error = AssertionError("strides must be 16-byte aligned")
    found, model = use(*failing, error=error, capability=capability), tiny_denoiser().requires_grad_(trained)
    assert models._fuse(model, CPU, precision) == (instead != COMPILED)
    assert found == made
    assert (model.run_blocks is layers.run_blocks) == (instead == COMPILED)
    why = "; ".join(f"{name} (AssertionError: {error})" for name in failing)
    why = why or "fused kernels (they need an Ampere GPU or a later one)"
    assert caplog.messages == ([f"Not available here: {why}; {instead}"] if instead else [])


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


@pytest.mark.parametrize(
    ("device", "precision", "tried", "runs"),
    [
        ("cuda", "tf32", True, True),
        ("cuda", "tf32", True, False),
        ("cuda", "fp32", False, True),
        ("cpu", "tf32", False, True),
    ],
)
def test_blocks_are_compiled_where_fused_kernels_do_not_run(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str, tried: bool, runs: bool
) -> None:
    asked: list[str] = []
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(models, "_fuse", lambda *arguments: asked.append(arguments[2]) or runs)
    monkeypatch.setattr(models, "compile_each", compiled.extend)
    model = tiny_denoiser()
    models.accelerate(model, torch.device(device), precision)
    assert asked == [precision] * tried
    assert compiled == [model.final_layer, *([] if tried and runs else model.blocks)]


def test_code_compiled_for_bf16_is_not_used_for_fp16() -> None:
    layer, x = layers.SwiGLU(8, 4.0), torch.randn(2, 8)
    compile_each([layer])
    for precision, dtype in HALF.items():
        with torch.no_grad(), autocast(CPU, precision):  # else nothing is kept on disk before a backward pass
            assert layer(x).dtype == dtype


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Mock(side_effect=RuntimeError("no C++ compiler"))
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
    layer, x = layers.SwiGLU(8, 4.0), torch.randn(2, 8)
    expected = layer(x)
    with torch._dynamo.config.patch(suppress_errors=False):
        compile_each([layer])
        assert torch.equal(layer(x), expected)
    assert broken.called


# The arithmetic of a device

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
    matmuls, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    matmuls.allow_tf32 = convolutions.allow_tf32 = not tf32
    set_arithmetic(precision, deterministic=deterministic)
    assert matmuls.allow_tf32 == convolutions.allow_tf32 == tf32
    assert not matmuls.allow_fp16_reduced_precision_reduction
    assert asked == [deterministic]
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == deterministic
