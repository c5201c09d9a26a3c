"""Weights that pass are those that their loaders take; the authors' PyTorch files become safetensors."""

import logging
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dsr.artifacts.manifest import EncoderCheck, WeightsCheck
from dsr.base import files, tensors
from dsr.base.errors import UserError
from dsr.config.base import Section
from dsr.config.specs import AutoencoderSpec, EncoderSpec, ModelSpec
from dsr.denoiser.dit import build_denoiser, load_denoiser
from dsr.encoder.autoencoder import load_decoder, load_encoder
from dsr.encoder.statistics import Normaliser
from dsr.encoder.vit import read_model_type

TABLES = ("pos_embed", ".freqs_cos", ".freqs_sin")
"""Ends of the names of position tables, absolute and rotary."""

log = logging.getLogger(__name__)


def convert(check: WeightsCheck, spec: Section, source: Path, output: Path, about: dict[str, str]) -> None:
    """Write the tensors of the authors' file ``source`` to the safetensors file ``output`` as float32, atomically.

    Their file is one of torch.save; of a training checkpoint, the moving average is taken, of one without, the model.
    Position tables that a denoiser's file leaves out were never trained, and are made.

    Raises:
        UserError: if the file is damaged, holds Python objects, or other tensors than expected.
    """
    # Tensors that share memory cannot be saved, and the file must not depend on strides.
    given = with_tables(spec, read_checkpoint(source), source)
    kept = {name: value.to(torch.float32, copy=True).contiguous() for name, value in given.items()}
    with files.atomic(output) as temporary:
        tensors.write(temporary, kept, about)
        try:
            verify(check, spec, temporary)
        except UserError as error:
            raise UserError(str(error).replace(str(temporary), str(source))) from None


def verify(check: WeightsCheck | EncoderCheck, spec: Section, path: Path) -> None:
    """Load a safetensors file, or an encoder's folder, as the workflow does.

    Raises:
        UserError: if it cannot be loaded, is another one, or holds values that are not finite.
    """
    model: nn.Module
    match spec:
        case ModelSpec():
            model = load_denoiser(spec, path, torch.device("cpu"))
        case AutoencoderSpec():
            model = load_decoder(spec, path)
        case EncoderSpec() if isinstance(check, EncoderCheck):
            model = _load_encoder(check, spec, path)
        case EncoderSpec():
            model = Normaliser.load(path, spec.latent_shape)
        case _:
            raise TypeError(f"{type(spec).__name__} is no specification of weights")
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: {name} holds values that are not finite")


def _load_encoder(check: EncoderCheck, spec: EncoderSpec, folder: Path) -> nn.Module:
    """Load an encoder; one of another size could pass for it, because position tables are resized."""
    read_model_type(folder, (check.model_type,))
    encoder = load_encoder(spec, encoder=folder, neurons=None)
    positions = next(table for name, table in encoder.embeddings.state_dict().items() if "position_embedding" in name)
    for key, found in {
        "positions": positions.shape[-2],
        "depth": len(encoder.blocks),
        "intermediate_size": encoder.blocks[0].mlp.fc1.out_features,
    }.items():
        if found != getattr(check, key):
            raise UserError(f"{folder}: {key} is {found}, expected {getattr(check, key)}; it is another encoder")
    return encoder


def with_tables(spec: Section, given: dict[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    """Add the position tables that a denoiser's file lacks; Fourier frequencies are random, and must be there."""
    if not isinstance(spec, ModelSpec):
        return given
    with tensors.Blank():
        names = build_denoiser(spec).state_dict()
    missing = [name for name in names if name.endswith(TABLES) and name not in given]
    if not missing:
        return given
    log.info("%s: lacks %s, which are taken as constructed", source, ", ".join(missing))
    constructed = build_denoiser(spec).state_dict()
    return {**given, **{name: constructed[name] for name in missing}}


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Read a file of torch.save."""
    try:
        # Only the zip format can be mapped instead of read, which spares memory.
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:
        # Damaged bytes are a damaged program for the unpickler, which can stumble in any way.
        raise UserError(
            f"{path}: not a PyTorch file of plain tensors. It is damaged, or holds Python objects, which are never "
            "loaded because they could run code"
        ) from error
    if isinstance(content, dict):
        content = next((content[key] for key in ("ema", "model") if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not all(torch.is_tensor(value) for value in content.values()):
        raise UserError(f"{path}: expected a dictionary of tensors; it is another file than expected")
    return {str(name): tensor for name, tensor in content.items()}
