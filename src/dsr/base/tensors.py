"""Files of named tensors with what is known about them: equal content gives equal bytes, and models take them whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dsr.base import files
from dsr.base.errors import UserError
from dsr.base.records import KEY


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a safetensors file, atomically."""
    with files.atomic(path) as temporary:
        save_file(
            {name: value.detach().contiguous() for name, value in tensors.items()},
            temporary,
            metadata={KEY: json.dumps(about, sort_keys=True)},
        )


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        UserError: if it is missing, damaged, or of another format.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the rule that makes it first")
    try:
        tensors: dict[str, Tensor] = load_file(path, device=str(device))
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file, or cut off ({error}); make it again") from None
    return tensors


def assign(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Make ``tensors``, in float32, those of ``model``; its own may be on the meta device.

    Args:
        model: parameters and buffers are replaced.
        tensors: by name.
        source: the file that messages name.

    Raises:
        UserError: if the model has other tensors, or tensors of other shapes.
    """
    expected = model.state_dict()
    reshaped = [
        f"{name} {list(tensors[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    for problem, names in (
        ("missing", [name for name in expected if name not in tensors]),
        ("unexpected", [name for name in tensors if name not in expected]),
        ("of another shape", reshaped),
    ):
        if names:
            raise UserError(
                f"{source}: {len(names)} tensors are {problem}: {', '.join(names[:3])}"
                f"{', ...' if len(names) > 3 else ''}; the file belongs to another model than the configuration's"
            )
    # Copies into tensors on the meta device would do nothing.
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
