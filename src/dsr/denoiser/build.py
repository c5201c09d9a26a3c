"""From a specification to a denoiser, with initial or with trained weights."""

from pathlib import Path
from typing import Any

import torch

from dsr.base.files import read_record
from dsr.base.tensors import assign, read
from dsr.config.specs import ModelSpec, WeightsSpec, require
from dsr.config.training import Dit, DitDh
from dsr.denoiser.dit import LightningDiT
from dsr.denoiser.dit_dh import DiTDH

Denoiser = LightningDiT | DiTDH


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


def load_denoiser(spec: ModelSpec, weights: Path, device: torch.device, origin: WeightsSpec | None = None) -> Denoiser:
    """Build the denoiser of ``spec`` with the weights of a safetensors file, frozen and in evaluation mode.

    Raises:
        UserError: if the file records another ``origin``, or does not hold exactly the tensors that the denoiser has.
    """
    if origin is not None:
        record = read_record(weights)
        # Of what is fetched the manifest tells more than is asked for here.
        require(weights, record.get("spec", {"artifact": record.get("artifact")}), origin)
    with torch.device("meta"):
        model = build_denoiser(spec)
    assign(model, read(weights, device), weights)
    return model.eval().requires_grad_(False)
