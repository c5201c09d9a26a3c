"""Hugging Face model folders: config.json, *.safetensors and preprocessor_config.json, checked and read."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dsr.base.errors import UserError
from dsr.base.files import read_json

log = logging.getLogger(__name__)


def read_scale(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Return the processor's mean and standard deviation of pixels in [0, 1], per channel.

    Raises:
        UserError: if the processor's file is missing or lacks them.
    """
    processor = _read(folder, "preprocessor_config.json")
    missing = [key for key in ("image_mean", "image_std") if key not in processor]
    if missing:
        raise UserError(f"{folder / 'preprocessor_config.json'}: {', '.join(missing)} missing; download it again")
    return processor["image_mean"], processor["image_std"]


def read_model_type(folder: Path, expected: Collection[str]) -> str:
    """Return the architecture that config.json names, one of ``expected``.

    Raises:
        UserError: if it is another one, or the file is missing.
    """
    kind = _read(folder, "config.json").get("model_type")
    if kind not in expected:
        names = " or ".join(f"'{name}'" for name in expected)
        raise UserError(f"{folder / 'config.json'}: model_type is '{kind}', expected {names}")
    return str(kind)


def load_model(folder: Path, architecture: Any, config: Any, *, unused: Sequence[str]) -> Any:
    """Load a transformers model in float32; every weight must be there and of the right shape.

    Args:
        folder: the model's folder, which may hold weights of more than this model.
        architecture: class of the model.
        config: its configuration.
        unused: parts of names of weights that nobody reads, so that a checkpoint may lack them.

    Raises:
        UserError: if weights are missing, misshapen or unreadable.
    """
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: no *.safetensors weights; download the encoder again")
    try:
        model, report = architecture.from_pretrained(
            folder,
            config=config,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: the weights cannot be read ({error}); download the encoder again") from None
    # Versions of transformers report a key of another shape as the key, or as (key, shape, shape).
    reshaped = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    wrong = sorted(key for key in {*report["missing_keys"], *reshaped} if not any(name in key for name in unused))
    if wrong:
        raise UserError(
            f"{folder}: {len(wrong)} vision weights are missing or of another shape than config.json says "
            f"({', '.join(wrong[:3])}, ...); download the encoder again"
        )
    log.info("Loaded %s: %d unused tensors", folder, len(report["unexpected_keys"]))
    return model.float()


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a Hugging Face model folder (download the encoder again)")
    try:
        content = read_json(path)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; download the encoder again")
    return content
