"""The accelerator that a benchmark runs on: its ceilings, time, memory, and where the time of its kernels goes."""

from __future__ import annotations

import argparse
import gc
import json
import math
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from dsr.base.distributed import World
from dsr.base.errors import UserError

SIDE = 8192
"""Side of the square matrices whose matmul gives the ceilings."""

KINDS = {
    "optimizer and averages": r"multi_tensor|adam|lerp|foreach",
    "attention": r"flash|fmha|attention|flex|sdpa|attend_",
    "matmuls": r"^matmul$|gemm|nvjet|cutlass|xmma|cublas|conv|implicit|wgrad|splitK",
    "generated element-wise": r"^triton",
    "fused": r"^(modulate|swiglu|rotate|transpose)",
    "copies": r"memcpy|memset|copy",
}
"""Kernels by name; the first that matches counts."""


def one_gpu(*, needed: bool = True) -> World:
    """Return a world of one process on the first GPU; where there is none and it is not ``needed``, on the CPU.

    Raises:
        UserError: if there is none.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(0)
        return World(rank=0, size=1, device=torch.device("cuda", 0))
    if needed:
        raise UserError("benchmarks measure a GPU, and PyTorch finds none here")
    return World(rank=0, size=1, device=torch.device("cpu"))


class HostEvent:
    """A CUDA event's interface on the CPU, which has done everything when it gets there."""

    def record(self) -> None:
        """Note the time."""
        self._time = time.perf_counter()

    def synchronize(self) -> None:
        """Do nothing."""

    def elapsed_time(self, end: HostEvent) -> float:
        """Milliseconds from this event to ``end``."""
        return 1000 * (end._time - self._time)


def recorded() -> Any:
    """Return an event that has just been recorded."""
    event = torch.cuda.Event(enable_timing=True) if torch.cuda.is_available() else HostEvent()
    event.record()
    return event


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(action: Callable[[], Any], *, repeats: int = 5, warmup: int = 2) -> float:
    """Median time of ``action`` on the GPU, in seconds."""
    times = []
    for number in range(warmup + repeats):
        begin = recorded()
        action()
        end = recorded()
        end.synchronize()
        if number >= warmup:
            times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """FLOP/s of a matmul of large random square matrices, by precision; on CPUs, which are not measured, infinite."""
    if not torch.cuda.is_available():
        return dict.fromkeys(("fp16", "bf16", "tf32"), math.inf)
    found = {}
    before = torch.backends.cuda.matmul.allow_tf32
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("tf32", torch.float32)):
        torch.backends.cuda.matmul.allow_tf32 = True
        a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        found[name] = 2 * SIDE**3 / seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), repeats=20)
    torch.backends.cuda.matmul.allow_tf32 = before
    return found


def about() -> dict[str, Any]:
    """Name the GPU, if there is one, and the software."""
    found = {"torch": str(torch.__version__), "cuda": str(torch.version.cuda)}
    if not torch.cuda.is_available():
        return found
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return {"gpu": torch.cuda.get_device_name(), "memory_gib": round(memory, 1), **found}


def fresh() -> None:
    """Give unused memory back and start measuring its peak anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    """Peak of allocated memory since :func:`fresh`, or since the trainer has found its micro-batch."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 1)


def kernel_times(action: Callable[[], Any], steps: int) -> dict[str, Any]:
    """Milliseconds of kernels a step while ``action`` runs ``steps`` of them: by kind, and the longest by name."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        action()
        torch.cuda.synchronize()
    spans = sorted(
        (e.time_range.start, e.time_range.end, e.name) for e in profiler.events() if e.device_type == DeviceType.CUDA
    )
    busy, pauses = spans[0][1], []
    for start, end, name in spans[1:]:
        pauses.append((max(start - busy, 0) / 1000 / steps, name[:60]))
        busy = max(busy, end)
    kinds: dict[str, float] = {}
    names: dict[str, float] = {}
    for event in profiler.key_averages():
        time = event.self_device_time_total / 1000 / steps
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, event.key, re.I)), "other")
        kinds[kind] = kinds.get(kind, 0.0) + time
        names[event.key[:90]] = names.get(event.key[:90], 0.0) + time
    longest = sorted(names.items(), key=lambda item: -item[1])[:25]
    return {
        "total": round(sum(kinds.values()), 2),
        "launches": len(spans) // steps,
        "idle": round(sum(pause for pause, _ in pauses), 2),
        "longest pauses, before": {name: round(pause, 2) for pause, name in sorted(pauses, reverse=True)[:6]},
        "kinds": {kind: round(time, 2) for kind, time in sorted(kinds.items(), key=lambda item: -item[1])},
        "longest": {name: round(time, 2) for name, time in longest if time > 0.05},
    }


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the option that all benchmarks share."""
    parser.add_argument("--json", type=Path, help="also write the results to this file")


def report(rows: list[dict[str, Any]]) -> None:
    """Print results as a table of their plain values."""
    keys = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, dict)))
    cells = [keys, *[[_text(row.get(key, "")) for key in keys] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), flush=True)
    for row in rows:
        for key, value in row.items():
            if isinstance(value, dict):
                print(f"{key}: {json.dumps(value)}", flush=True)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
