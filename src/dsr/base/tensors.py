"""Files of named tensors with what is known about them: equal content gives equal bytes, and models take them whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dsr.base import files
from dsr.base.errors import UserError


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a safetensors file, atomically."""
    with files.atomic(path) as temporary:
        save_file(
            {name: value.detach().contiguous() for name, value in tensors.items()},
            temporary,
            metadata={files.KEY: json.dumps(about, sort_keys=True)},
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


_FILLING = (
    *(Tensor.uniform_, Tensor.normal_, Tensor.zero_, Tensor.fill_),
    *(nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_),
)


class Blank(TorchFunctionMode):
    """Within it modules are made without initial weights, in memory that is not touched, for :func:`assign`.

    On the meta device that would import PyTorch's compiler, which takes seconds.
    """

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        """Leave tensors as they are where they would be filled."""
        if function in _FILLING:
            return arguments[0] if arguments else (options or {})["tensor"]
        return function(*arguments, **(options or {}))


def assign(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Make ``tensors`` of ``source``, in float32, those of ``model``; its own may be blank.

    Raises:
        UserError: if the model has other tensors, or tensors of other shapes.
    """
    try:
        # Nothing is copied, so blank tensors take no memory.
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    except RuntimeError as error:
        _, *problems = (line.strip() for line in str(error).splitlines())
        raise UserError(
            f"{source}: the file belongs to another model than the configuration's: {' '.join(problems):.300}"
        ) from None
