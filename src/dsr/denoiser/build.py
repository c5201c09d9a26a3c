"""From a specification to a denoiser, with initial or with trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dsr.base.errors import UserError
from dsr.config.denoisers import Dit, DitDh
from dsr.config.specs import ModelSpec
from dsr.denoiser.dit import LightningDiT
from dsr.denoiser.dit_dh import DiTDH

Denoiser = LightningDiT | DiTDH


class WeightsError(UserError):
    """A weight file cannot be read or does not fit the denoiser; the message names the file and the first key."""


def build_denoiser(spec: ModelSpec, *, train_all: bool = True) -> Denoiser:
    """Build the denoiser of ``spec`` with initial weights drawn from torch's global generator."""
    network = spec.denoiser
    common: dict[str, Any] = {
        "input_size": spec.grid,
        "in_channels": spec.channels,
        "num_classes": spec.classes,
        "mlp_ratio": network.mlp_ratio,
        "class_dropout_prob": network.class_dropout,
        "registers": spec.registers,
        "register_start": network.register_start,
        "train_all": train_all,
    }
    match network:
        case Dit(hidden_size=width, depth=depth, num_heads=heads):
            return LightningDiT(hidden_size=width, depth=depth, num_heads=heads, **common)
        case DitDh(hidden_size=widths, depth=depths, num_heads=heads_each):
            return DiTDH(hidden_size=widths, depth=depths, num_heads=heads_each, **common)


def load_denoiser(spec: ModelSpec, weights: Path, device: torch.device) -> Denoiser:
    """Build the denoiser of ``spec`` with the weights of a safetensors file, frozen and in evaluation mode.

    Raises:
        WeightsError: if the file does not hold exactly the tensors that the denoiser has.
    """
    with torch.device("meta"):
        model = build_denoiser(spec)
    expected = model.state_dict()
    try:
        with safe_open(weights, framework="pt", device=str(device)) as file:
            names = list(file.keys())
            check_tensors(weights, {name: file.get_slice(name).get_shape() for name in names}, expected)
            state = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise WeightsError(f"{weights}: no such file; train the row first") from None
    except SafetensorError as error:
        raise WeightsError(f"{weights} is not a complete safetensors file ({error}); make it again") from None
    # assign keeps the tensors just read: the model's own are on the meta device and hold nothing.
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
    return model.eval().requires_grad_(False)


def check_tensors(weights: Path, found: dict[str, list[int]], expected: dict[str, torch.Tensor]) -> None:
    """Compare the shapes in a weight file with the model's.

    Raises:
        WeightsError: naming the first tensor, in the model's order, that is missing, differs or is not the model's.
    """
    hint = "the weights belong to another denoiser: give the file of this row or the row's own settings"
    for key, tensor in expected.items():
        shape = found.get(key)
        if shape is None:
            raise WeightsError(f"{weights}: {key} {list(tensor.shape)} is missing; {hint}")
        if list(tensor.shape) != list(shape):
            raise WeightsError(f"{weights}: {key} is {list(shape)}, expected {list(tensor.shape)}; {hint}")
    for key, shape in found.items():
        if key not in expected:
            raise WeightsError(f"{weights}: {key} {list(shape)} is not part of the denoiser; {hint}")
