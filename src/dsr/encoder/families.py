"""Families of encoders by the name that the configuration gives them: `encoders.*.family`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dsr.encoder import dinov2, siglip2
from dsr.encoder.vit import VitEncoder


class Family(NamedTuple):
    """Encoders that one class loads."""

    encoder: type[VitEncoder]
    """The class."""
    pixel_mean: Sequence[float]
    """Per channel, what the family's published processors subtract from pixels in [0, 1]."""
    pixel_std: Sequence[float]
    """Per channel, what they divide by after that."""


FAMILIES: Mapping[str, Family] = {
    "siglip2": Family(siglip2.Siglip2Encoder, siglip2.PIXEL_MEAN, siglip2.PIXEL_STD),
    "dinov2": Family(dinov2.Dinov2Encoder, dinov2.PIXEL_MEAN, dinov2.PIXEL_STD),
}
"""To add one: a class here, and its name in `dsr.config.encoders.Encoder.family`."""
