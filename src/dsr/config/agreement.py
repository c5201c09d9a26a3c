"""What sections of the configuration must agree on."""

from __future__ import annotations

from collections.abc import Mapping

from dsr.config.data import Data
from dsr.config.denoisers import Denoiser
from dsr.config.encoders import Discovery, Encoder
from dsr.config.sampling import Sampling
from dsr.config.training import Row


def check_guidance(sampling: Sampling, rows: Mapping[str, Row], denoisers: Mapping[str, Denoiser]) -> None:
    """Guidance needs denoisers that learnt the null label.

    Raises:
        ValueError: naming the setting and the denoiser that did not.
    """
    guided = [(f"sampling.guidance.{name}", rows) for name, setting in sampling.guidance.items() if setting.scale > 1]
    if sampling.sweep is not None and max(sampling.sweep.scales) > 1:
        guided.append(("sampling.sweep", {row: rows[row] for row in sampling.sweep.rows}))
    for place, asked in guided:
        for name, row in asked.items():
            if not denoisers[row.denoiser].class_dropout:
                raise ValueError(
                    f"{place}: rows.{name} cannot be guided, for denoisers.{row.denoiser}.class_dropout: 0 teaches it"
                    " no null label; raise that, or leave out guidance"
                )


def check_images(data: Data, discovery: Discovery, rows: Mapping[str, Row], encoders: Mapping[str, Encoder]) -> None:
    """There must be enough images, of a size that the tokens of every row's encoder divide.

    Raises:
        ValueError: naming what does not fit.
    """
    if discovery.images > data.train_images:
        raise ValueError(f"discovery.images: {discovery.images} is more than the {data.train_images} training images")
    for name in (row.encoder for row in rows.values()):
        grid = encoders[name].grid
        if data.image_size % grid:
            raise ValueError(
                f"encoders.{name}: data.image_size {data.image_size} is not a multiple of its {grid} tokens along a"
                " side (input_size / patch_size), so no decoder's patches would fill the image"
            )
