"""Write the token maps of an encoder or of a row's denoiser; figures are drawn from them."""

from __future__ import annotations

from pathlib import Path

import torch

from dsr.analysis.denoiser_maps import map_denoiser
from dsr.analysis.encoder_maps import map_encoder
from dsr.analysis.specs import DenoiserMapsSpec, EncoderMapsSpec, MapsFiles
from dsr.base.command import command
from dsr.base.distributed import world


def encoder(spec: EncoderMapsSpec, files: MapsFiles, output: Path, threads: int = 1) -> None:
    """Map a frozen encoder, with or without TTR.

    Args:
        spec: Encoder, TTR, decoder and images.
        files: What the maps are made from.
        output: Npz file to write.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    with world() as here:
        map_encoder(spec, files, here.device).save(output, spec)


def denoiser(
    spec: DenoiserMapsSpec, files: MapsFiles, statistics: Path, weights: Path, output: Path, threads: int = 1
) -> None:
    """Map the denoiser of a row.

    Args:
        spec: Autoencoder, denoiser, images and times.
        files: What the maps are made from.
        statistics: Latent statistics.
        weights: Moving average of the row's weights.
        output: Npz file to write.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    with world() as here:
        map_denoiser(spec, files, statistics, weights, here.device).save(output, spec)


main = command(encoder=encoder, denoiser=denoiser)

if __name__ == "__main__":
    main()
