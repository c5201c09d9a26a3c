"""Trained weights in a script of one's own: `load("results/models/dit-siglip2b-dsr-800")`."""

from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from dsr.base.errors import UserError
from dsr.config.sampling import Guidance
from dsr.config.specs import SampleSpec
from dsr.sampling.sampler import Sampler

FILES = ("config.json", "model.safetensors", "statistics.safetensors", "decoder.safetensors")
"""Specification of samples, EMA weights, latent statistics, and the pixel decoder."""


def load(
    source: str | Path,
    *,
    decoder: Path | None = None,
    guidance: Guidance | None = None,
    device: torch.device | str | None = None,
) -> Sampler:
    """Load trained weights with what makes images of what they draw.

    Args:
        source: a folder as the rule `model_card` writes it, or the id of a repository on the Hugging Face hub.
        decoder: the pixel decoder, where the folder has none.
        guidance: another than the folder's.
        device: where to draw; a GPU if there is one.

    Raises:
        UserError: if a file is missing, damaged, or does not fit the others.
    """
    folder = Path(source)
    if not folder.is_dir():
        try:
            folder = Path(huggingface_hub.snapshot_download(str(source), allow_patterns=[*FILES]))
        except (HfHubHTTPError, HFValidationError) as error:
            raise UserError(f"{source}: no such folder, and not on the hub ({' '.join(str(error).split())})") from None
    config, weights, statistics, own_decoder = (folder / name for name in FILES)
    if not config.is_file():
        raise UserError(f"{config}: no such file; expected a folder that `snakemake model_card` made")
    if not (decoder or own_decoder).is_file():
        raise UserError(f"{decoder or own_decoder}: no such file; give the decoder's: load(..., decoder=...)")
    spec = SampleSpec.model_validate_json(config.read_bytes())
    return Sampler(
        spec.model_copy(update={"guidance": guidance or spec.guidance}),
        weights=weights,
        statistics=statistics,
        decoder=decoder or own_decoder,
        device=torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")),
    )
