"""Compilation of the parts that repeat, so that one compiled block serves all of its kind and a start stays short."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

Function = Callable[[torch.Tensor], torch.Tensor]

VARIANTS = 64
"""Shapes and modes that one piece of code may be compiled for; two models need more than PyTorch's own 8."""

OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"comprehensive_padding": False}
"""For PyTorch's compiler. Rows with gaps would keep its matmuls from adding the bias themselves."""


def compile_each(modules: Iterable[nn.Module]) -> None:
    """Compile modules in place, each for the exact shapes that it sees.

    Modules of one class share their code: 28 equal blocks take the time of one. What cannot be compiled (no C++
    compiler, an unknown GPU) runs as it is, with a warning of PyTorch that says why.
    """
    _prepare()
    for module in modules:
        module.compile(dynamic=False, options=OPTIONS)  # type: ignore[no-untyped-call]


def compiled(function: Function) -> Function:
    """Return a compiled version of ``function``, for the exact shapes that it sees; it falls back as above."""
    _prepare()
    return torch.compile(function, dynamic=False, options=OPTIONS)


def _prepare() -> None:
    import torch._dynamo  # takes a second, and only compiled code needs it

    torch._dynamo.config.recompile_limit = VARIANTS
    torch._dynamo.config.suppress_errors = True
