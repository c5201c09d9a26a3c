"""Every kernel, as it is launched at the sizes of the paper's rows, compiles for a Hopper GPU and fits into it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from dsr.denoiser.layers import Block, RotaryPositions

if importlib.util.find_spec("triton") is None:
    pytest.skip("PyTorch was built without Triton", allow_module_level=True)

from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from dsr.denoiser.frozen import FrozenBlocks
from dsr.denoiser.fused import FusedBlocks
from dsr.flash import attention as flash

SHARED_MEMORY = 227 * 1024
"""Bytes that a block of threads can have on a Hopper GPU."""
Compiled = dict[str, list[Any]]


class Hopper:
    """Stands in for the driver of a GPU that is not there: enough to compile for it."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiled]:
    """Compile what is launched instead of running it, and keep it by name."""
    launched: Compiled = {}
    run: Callable[..., Any] = JITFunction.run

    def compile_only(kernel: JITFunction[Any], *arguments: Any, warmup: bool, **options: Any) -> Any:
        found = run(kernel, *arguments, warmup=True, **options)
        launched.setdefault(kernel.fn.__name__, []).append(found)
        return found

    monkeypatch.setattr(JITFunction, "run", compile_only)
    driver.set_active(Hopper())
    yield launched
    driver.reset_active()


def fits(compiled: Compiled) -> bool:
    return all(kernel.metadata.shared <= SHARED_MEMORY for kernels in compiled.values() for kernel in kernels)


def tensor_cores(compiled: Compiled, *names: str) -> bool:
    """Whether kernels multiply by the instructions that Hopper added."""
    return all("wgmma" in kernel.asm["ptx"] for name in names for kernel in compiled[name])


ATTENTION = ("attend_forward", "attend_backward_queries", "attend_backward_keys")


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize(("width", "each"), [(1152, False), (2048, True)], ids=["DiT", "head-of-DiT-DH"])
def test_training(compiled: Compiled, width: int, each: bool, precision: str) -> None:
    blocks = [Block(width, 16, 4.0) for _ in range(2)]
    x = torch.randn(1, 292, width, requires_grad=True)
    condition = torch.randn(1, 292 if each else 1, width)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        way = FusedBlocks(turn_in_product=precision == "bf16")
        way(blocks, x, condition, RotaryPositions(width // 16, 16, 36)).sum().backward()
    own = {"product"} if precision == "bf16" else {"rotate", "transpose"}
    others = {"modulate_forward", "modulate_backward", "swiglu_forward", "swiglu_backward"}
    assert compiled.keys() == {*ATTENTION, *own, *others, *([] if each else ["modulate_finish"])}
    assert fits(compiled)
    assert tensor_cores(compiled, *ATTENTION, *(own & {"product"}))


@pytest.mark.parametrize("eight_bits", [False, True])
@pytest.mark.parametrize("width", [1152, 2048])
def test_sampling(compiled: Compiled, width: int, eight_bits: bool) -> None:
    block = Block(width, 16, 4.0).bfloat16().requires_grad_(False)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        way = FrozenBlocks([block], eight_bits=eight_bits)
        way([block], torch.randn(1, 292, width), torch.randn(1, 1, width), RotaryPositions(width // 16, 16, 36))
    assert compiled.keys() == {"modulate_forward", "product", "attend_forward"}
    assert fits(compiled)
    assert tensor_cores(compiled, "product", "attend_forward")
    assert ("e4m3" in compiled["product"][0].asm["ptx"]) == eight_bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("heads", "head"), [(12, 64), (16, 72)], ids=["SigLIP2-B", "So400M"])
def test_encoding(compiled: Compiled, heads: int, head: int, dtype: torch.dtype) -> None:
    flash.attend(torch.zeros(1, 257, 3, heads, head, dtype=dtype))
    assert compiled.keys() == {"attend_forward"}
    assert fits(compiled)
    assert tensor_cores(compiled, "attend_forward")
