"""Whether statistics and decoder belong to an encoder, by what some images say; those of others have its shapes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FAR = 0.05
"""Distance from which latent statistics are taken to be of another encoder or TTR."""


def misfits(fit: Mapping[Any, Any], statistics: Path | str, decoder: Path | str) -> list[str]:
    """Say what does not seem to belong to the encoder, a line each."""
    lines = []
    if (distance := fit["statistics_distance"]) > FAR:
        lines.append(
            f"{statistics}: latents are {distance:.2g} from mean 0 and deviation 1 with these statistics"
            f" (expected: below {FAR}); they are those of another encoder, or of other test-time registers"
        )
    if (share := fit["unexplained"]) > 1:
        lines.append(
            f"{decoder}: reconstructions are {share:.2g} times as far from the images as one colour would be; it is"
            " the decoder of another encoder"
        )
    return lines
