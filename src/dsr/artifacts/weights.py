"""Weights that pass are those that their loaders take; the authors' PyTorch files become safetensors."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from dsr.artifacts.checks import DecoderCheck, DenoiserCheck, EncoderCheck, StatisticsCheck, WeightsCheck
from dsr.artifacts.errors import ContentError
from dsr.base import files
from dsr.base.weights import WeightsError, assign, read
from dsr.denoiser.build import load_denoiser
from dsr.encoder.decoder import ViTDecoder
from dsr.encoder.families import FAMILIES
from dsr.encoder.folders import read_model_type
from dsr.encoder.statistics import Normaliser


def convert(check: WeightsCheck, source: Path, output: Path, about: dict[str, str]) -> None:
    """Write the tensors of the authors' file ``source`` to the safetensors file ``output`` as float32, atomically.

    Args:
        check: what the content must be.
        source: a file of torch.save; of a training checkpoint, the moving average is taken.
        output: where to.
        about: metadata of the safetensors file.

    Raises:
        UserError: if the file is damaged, holds Python objects, or other tensors than expected.
    """
    tensors = _read_checkpoint(source)
    unused = check.unused if isinstance(check, DecoderCheck) else ()
    with files.atomic(output) as temporary:
        # Tensors that share memory cannot be saved, and the file must not depend on strides.
        kept = {
            name: tensor.to(torch.float32, copy=True).contiguous()
            for name, tensor in tensors.items()
            if name not in unused
        }
        temporary.write_bytes(save(kept, metadata=about))
        try:
            verify(check, temporary)
        except WeightsError as error:
            raise ContentError(str(error).replace(str(temporary), str(source))) from None


def verify(check: WeightsCheck, path: Path) -> None:
    """Load a safetensors file as the workflow does.

    Raises:
        UserError: if it cannot be loaded, or holds values that are not finite.
    """
    model: nn.Module
    if isinstance(check, StatisticsCheck):
        model = Normaliser.load(path, check.shape)
    elif isinstance(check, DenoiserCheck):
        model = load_denoiser(check.model, path, torch.device("cpu"))
    else:
        with torch.device("meta"):
            model = ViTDecoder(
                in_channels=check.channels,
                patch_size=check.image_size // check.grid,
                grid=check.grid,
                **check.decoder.model_dump(),
            )
        assign(model, read(path), path)
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise WeightsError(f"{path}: {name} holds values that are not finite")


def verify_encoder(check: EncoderCheck, folder: Path) -> None:
    """Load an encoder as the workflow does, and compare its sizes.

    Raises:
        UserError: if a file is missing or damaged, or it is another encoder.
    """
    read_model_type(folder, (check.model_type,))
    family = FAMILIES["siglip2" if check.model_type == "siglip" else "dinov2"]
    loaded = family.encoder.load(folder, input_size=check.patch_size)
    positions = next(table for name, table in loaded.embeddings.state_dict().items() if "position_embedding" in name)
    for key, found in {
        "width": loaded.width,
        "patch_size": loaded.patch_size,
        "positions": positions.shape[-2],
        "depth": len(loaded.blocks),
        "intermediate_size": loaded.blocks[0].mlp.fc1.out_features,
    }.items():
        if found != getattr(check, key):
            raise ContentError(f"{folder}: {key} is {found}, expected {getattr(check, key)}; it is another encoder")


def _read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Read a file of torch.save."""
    try:
        # Only the zip format can be mapped instead of read, which spares memory.
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:
        # Damaged bytes are a damaged program for the unpickler, which can stumble in any way.
        raise ContentError(
            f"{path}: not a PyTorch file of plain tensors. It is damaged, or holds Python objects, which are never "
            "loaded because they could run code"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("ema"), dict):
        content = content["ema"]
    if not isinstance(content, dict) or not all(torch.is_tensor(value) for value in content.values()):
        raise ContentError(f"{path}: expected a dictionary of tensors; it is another file than expected")
    return {str(name): tensor for name, tensor in content.items()}
