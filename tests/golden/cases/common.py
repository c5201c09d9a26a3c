"""What a golden vector file is, and what a family of cases must provide."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Golden:
    """One vector file: settings, parameters, inputs and expected outputs (keys without their first part)."""

    path: Path
    meta: dict[str, Any]
    params: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def tensors(arrays: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, torch.Tensor]:
    """Return the arrays under a prefix as tensors, without it."""
    return {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays if key.startswith(prefix)}


@dataclass(frozen=True)
class Tolerance:
    """|got - expected| <= atol + rtol * |expected|, elementwise, but for up to ``flips`` values; all zero is exact."""

    rtol: float = 0.0
    atol: float = 0.0
    flips: int = 0


Computed = Mapping[str, np.ndarray | float | int]


@dataclass(frozen=True)
class Family:
    """Cases that one function computes.

    ``compute`` returns our value for every output key; ``tolerance`` holds for every key but those in ``special``
    (an exact key, or a prefix ending in '/'). ``expected`` may replace recorded outputs where they are known not
    to be the truth, and says so in its docstring.
    """

    compute: Callable[[Golden], Computed]
    tolerance: Tolerance
    special: Mapping[str, Tolerance] = field(default_factory=dict)
    expected: Callable[[Golden], Mapping[str, np.ndarray]] | None = None

    def tolerance_of(self, key: str) -> Tolerance:
        for name, tolerance in self.special.items():
            if key == name or (name.endswith("/") and key.startswith(name)):
                return tolerance
        return self.tolerance


def read(path: Path) -> Golden:
    """Read a vector file with `meta`, `param/`, `in/` and `out/` keys."""
    parts: dict[str, dict[str, np.ndarray]] = {"param": {}, "in": {}, "out": {}}
    with np.load(path, allow_pickle=False) as file:
        meta = json.loads(str(file["meta"])) if "meta" in file.files else {}
        for key in file.files:
            kind, _, name = key.partition("/")
            if name and kind in parts:
                parts[kind][name] = file[key]
    return Golden(path, meta, parts["param"], parts["in"], parts["out"])
