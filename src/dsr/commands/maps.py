"""Write the token maps of an encoder or of a row's denoiser; figures are drawn from them."""

from dsr.analysis.measure import map_denoiser, map_encoder
from dsr.base.command import command

if __name__ == "__main__":
    command(encoder=map_encoder, denoiser=map_denoiser)()
