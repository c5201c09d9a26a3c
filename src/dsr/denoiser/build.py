"""From a specification to a denoiser, with initial or with trained weights."""

from pathlib import Path

import torch

from dsr.base.files import read_record
from dsr.base.tensors import assign, read
from dsr.config.specs import ModelSpec, WeightsSpec, require
from dsr.config.training import Dit, DitDh
from dsr.denoiser.dit import DiTDH, LightningDiT

Denoiser = LightningDiT | DiTDH


def build_denoiser(spec: ModelSpec, *, train_all: bool = True) -> Denoiser:
    """Build the denoiser of ``spec`` with initial weights drawn from torch's global generator."""
    match spec.denoiser:
        case Dit() as network:
            return LightningDiT(spec, network, train_all=train_all)
        case DitDh() as network:
            return DiTDH(spec, network, train_all=train_all)


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
