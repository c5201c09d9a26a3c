"""From the authors' PyTorch files to safetensors: only plain tensors are unpickled, and every key is accounted for."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dsr.artifacts.checks import DecoderCheck, DenoiserCheck, StatisticsCheck
from dsr.artifacts.errors import ContentError
from dsr.base import files
from dsr.denoiser.build import build_denoiser
from dsr.encoder.decoder import ViTDecoder

WeightsCheck = DecoderCheck | DenoiserCheck | StatisticsCheck

Tensors = dict[str, torch.Tensor]


def convert(check: WeightsCheck, source: Path, output: Path, about: dict[str, str]) -> None:
    """Write the tensors of the authors' file ``source`` to the safetensors file ``output`` as float32, atomically.

    Args:
        check: what the content must be.
        source: a file of torch.save.
        output: where to.
        about: metadata of the safetensors file.

    Raises:
        ContentError: if the file is damaged, holds Python objects, or other tensors than expected.
        OSError: if it cannot be written.
    """
    tensors = _read_checkpoint(source, ema=isinstance(check, DenoiserCheck))
    if isinstance(check, DecoderCheck):
        tensors = {key: value for key, value in tensors.items() if key not in check.unused}
    _verify(check, source, tensors)
    # Tensors that share memory cannot be saved, and the file must not depend on strides.
    tensors = {key: value.to(torch.float32, copy=True).contiguous() for key, value in tensors.items()}
    with files.atomic(output) as temporary:
        try:
            save_file(tensors, temporary, metadata=about)
        except SafetensorError as error:
            # The library hides the system's error number, which tells a full disk from other trouble, in its text.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(output)) from error


def verify(check: WeightsCheck, path: Path) -> None:
    """Check a safetensors file.

    Raises:
        ContentError: if it is damaged or holds other tensors than expected.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise ContentError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise ContentError(f"{path}: not a safetensors file, or cut off ({error})") from None
    _verify(check, path, tensors)


def _read_checkpoint(path: Path, *, ema: bool) -> Tensors:
    """Read a file of torch.save; with ``ema``, a training checkpoint gives the moving average in it."""
    try:
        whole = zipfile.is_zipfile(path)
        with path.open("rb") as stream:
            if stream.read(2) == b"PK" and not whole:
                raise EOFError(path)
        # Only the zip format can be mapped instead of read, which spares memory.
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=whole)
    except FileNotFoundError:
        raise ContentError(f"{path}: no such file") from None
    except OSError:
        raise
    except Exception as error:
        # Damaged bytes are a damaged program for the unpickler, which can stumble in any way.
        raise ContentError(
            f"{path}: not a PyTorch file of plain tensors. It is damaged, or holds Python objects, which are never "
            "loaded because they could run code"
        ) from error
    if ema and isinstance(content, dict) and isinstance(content.get("ema"), dict):
        content = content["ema"]
    if not isinstance(content, dict) or not content:
        found = "an empty one" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ContentError(f"{path}: expected a dictionary of tensors, found {found}; it is another file than expected")
    others = [str(key) for key, value in content.items() if not torch.is_tensor(value)]
    if others:
        raise ContentError(
            f"{path}: expected a dictionary of tensors, found other things under {', '.join(others[:3])}; it is "
            "another file than expected"
        )
    return {str(key): value for key, value in content.items()}


def _verify(check: WeightsCheck, path: Path, tensors: Tensors) -> None:
    expected = expected_shapes(check)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    reshaped = [
        f"{key} {shapes[key]} instead of {shape}"
        for key, shape in expected.items()
        if key in shapes and shapes[key] != shape
    ]
    for problem, keys in (
        ("unexpected", [key for key in shapes if key not in expected]),
        ("missing", [key for key in expected if key not in shapes]),
        ("of another shape", reshaped),
    ):
        if keys:
            raise ContentError(
                f"{path}: {len(keys)} {check.kind} tensors are {problem}: {', '.join(keys[:3])}"
                f"{', ...' if len(keys) > 3 else ''}. It is another file than expected"
            )
    for key, value in tensors.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise ContentError(f"{path}: {key} holds values that are not finite numbers")
    if isinstance(check, StatisticsCheck) and (tensors["var"] < 0).any():
        raise ContentError(f"{path}: var holds negative variances")


def expected_shapes(check: WeightsCheck) -> dict[str, tuple[int, ...]]:
    """Return tensor -> shape of what ``check`` demands."""
    if isinstance(check, StatisticsCheck):
        return {"mean": check.shape, "var": check.shape}
    with torch.device("meta"):
        model = _decoder(check) if isinstance(check, DecoderCheck) else build_denoiser(check.model)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _decoder(check: DecoderCheck) -> ViTDecoder:
    return ViTDecoder(
        in_channels=check.channels,
        hidden_size=check.decoder.hidden_size,
        depth=check.decoder.depth,
        num_heads=check.decoder.num_heads,
        intermediate_size=check.decoder.intermediate_size,
        patch_size=check.image_size // check.grid,
        grid=check.grid,
    )
