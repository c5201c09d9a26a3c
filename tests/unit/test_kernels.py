"""Every kernel, as it is launched at the sizes of the paper's rows, compiles for the GPUs of a cluster and fits."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dsr.denoiser.layers import Block, RotaryPositions

if importlib.util.find_spec("triton") is None:
    pytest.skip("PyTorch was built without Triton", allow_module_level=True)

from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from dsr.accel import flash_attention
from dsr.accel.device import HALF, autocast
from dsr.accel.fused import FrozenBlocks, FusedBlocks

Compiled = dict[str, list[Any]]


@dataclass(frozen=True)
class Gpu:
    """Stands in for the driver of a GPU that is not there: enough to compile for it."""

    capability: int
    shared_memory: int
    """Bytes that a program can have."""
    instruction: str
    """By which its tensor cores multiply."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        # Triton keeps what it compiled by device.
        return self.capability

    def get_current_stream(self, _: int) -> int:
        return 0


class WithoutMatmuls(TorchDispatchMode):
    """Gives zeros instead of PyTorch's own products, for which a CPU without bf16 takes minutes."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            left, right = arguments[-2:]
            return left.new_zeros(len(left), right.shape[1])
        return function(*arguments, **(options or {}))


HOPPER, AMPERE = Gpu(90, 227 * 1024, "wgmma.mma_async"), Gpu(80, 163 * 1024, "mma.sync")


@pytest.fixture
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiled]:
    """Compile what is launched for a GPU instead of running it, and keep it by name."""
    gpu: Gpu = getattr(request, "param", HOPPER)
    launched: Compiled = {}
    run: Callable[..., Any] = JITFunction.run

    def compile_only(kernel: JITFunction[Any], *arguments: Any, warmup: bool, **options: Any) -> Any:
        found = run(kernel, *arguments, warmup=True, **options)
        launched.setdefault(kernel.fn.__name__, []).append(found)
        return found

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(flash_attention, "_is_small", lambda _: gpu is AMPERE)
    driver.set_active(gpu)
    with WithoutMatmuls():
        yield launched
    driver.reset_active()
    for kernel in (kernel for kernels in launched.values() for kernel in kernels):
        assert kernel.metadata.shared <= gpu.shared_memory
        assert spilled(kernel) <= 1024
        if "attend" in kernel.name or kernel.name == "matmul":
            assert gpu.instruction in kernel.asm["ptx"]


def spilled(kernel: Any) -> int:
    """Bytes of a thread that do not fit into registers, as the assembler reports them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        tool = Path(nvidia.__file__).with_name("bin") / "cuobjdump"
        report = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    (stack,) = re.findall(r"STACK:(\d+)", report.stdout)
    return int(stack)


ATTENTION = ("attend_forward", "attend_backward_queries", "attend_backward_keys")


@pytest.mark.parametrize(
    ("compiled", "precision", "fuse_rope"),
    [(HOPPER, "tf32", False), (HOPPER, "bf16", True), (AMPERE, "tf32", False), (AMPERE, "bf16", False)],
    indirect=["compiled"],
    ids=["Hopper-tf32", "Hopper-bf16", "Ampere-tf32", "Ampere-bf16"],
)
@pytest.mark.parametrize(("width", "each"), [(1152, False), (2048, True)], ids=["DiT", "head-of-DiT-DH"])
def test_training(compiled: Compiled, width: int, each: bool, precision: str, fuse_rope: bool) -> None:
    blocks = [Block(width, 16, 4.0) for _ in range(2)]
    x = torch.randn(1, 292, width, requires_grad=True)
    condition = torch.randn(1, 292 if each else 1, width)
    with autocast(torch.device("cpu"), precision):
        way = FusedBlocks(fuse_rope=fuse_rope)
        way(blocks, x, condition, RotaryPositions(width // 16, 16, 36)).sum().backward()
    own = {"matmul"} if fuse_rope else {"rotate", "transpose"} if precision == "tf32" else {"rotate"}
    others = {"modulate_forward", "modulate_backward", "swiglu_forward", "swiglu_backward"}
    assert compiled.keys() == {*ATTENTION, *own, *others, *([] if each else ["modulate_finish"])}


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("width", [1152, 2048])
def test_sampling(compiled: Compiled, width: int, precision: str) -> None:
    block = Block(width, 16, 4.0).to(HALF[precision]).requires_grad_(False)
    with torch.inference_mode(), autocast(torch.device("cpu"), precision):
        way = FrozenBlocks([block])
        way([block], torch.randn(1, 292, width), torch.randn(1, 1, width), RotaryPositions(width // 16, 16, 36))
    assert compiled.keys() == {"modulate_forward", "matmul", "attend_forward"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("heads", "head"), [(12, 64), (16, 72)], ids=["SigLIP2-B", "So400M"])
def test_encoding(compiled: Compiled, heads: int, head: int, dtype: torch.dtype) -> None:
    flash_attention.attend(torch.zeros(1, 257, 3, heads, head, dtype=dtype))
    assert compiled.keys() == {"attend_forward"}
