"""Write the token maps of an encoder or of a row's denoiser; figures are drawn from them."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dsr.analysis.denoiser_maps import map_denoiser
from dsr.analysis.encoder_maps import map_encoder
from dsr.analysis.specs import DenoiserMapsSpec, EncoderMapsSpec
from dsr.base.distributed import world
from dsr.base.logs import command
from dsr.data.images import open_images


@command
def main() -> None:
    """Map one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--images", type=Path, required=True, help="index of the prepared validation images")
    shared.add_argument("--encoder", type=Path, required=True, help="Hugging Face folder of the encoder")
    shared.add_argument("--neurons", type=Path, nargs="?", help="register neurons (with TTR)")
    shared.add_argument("--threads", type=int, default=1, help="CPU threads")
    shared.add_argument("--output", type=Path, required=True, help="npz file to write")

    encoder = kinds.add_parser("encoder", parents=[shared], help="a frozen encoder, with or without TTR")
    encoder.add_argument("--spec", required=True, help="EncoderMapsSpec as JSON")
    encoder.add_argument("--decoder", type=Path, nargs="?", help="decoder weights, to show the reconstruction")

    denoiser = kinds.add_parser("denoiser", parents=[shared], help="the denoiser of a row")
    denoiser.add_argument("--spec", required=True, help="DenoiserMapsSpec as JSON")
    denoiser.add_argument("--statistics", type=Path, required=True, help="latent statistics")
    denoiser.add_argument("--decoder", type=Path, required=True, help="decoder weights")
    denoiser.add_argument("--weights", type=Path, required=True, help="moving average of the row's weights")

    arguments = vars(parser.parse_args())
    kind, spec, output = (arguments.pop(name) for name in ("kind", "spec", "output"))
    torch.set_num_threads(arguments.pop("threads"))
    arguments["images"] = open_images(arguments["images"])
    with world() as here:
        if kind == "encoder":
            maps = map_encoder(EncoderMapsSpec.model_validate_json(spec), device=here.device, **arguments)
        else:
            maps = map_denoiser(DenoiserMapsSpec.model_validate_json(spec), device=here.device, **arguments)
        maps.save(output)


if __name__ == "__main__":
    main()
