"""The maps file: what one encoder or one denoiser does to chosen images, layer by layer; and what an outlier token is.

NumPy only, so that figures are drawn without PyTorch. Grids are (S, S) in row-major token order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from dsr.base.errors import UserError
from dsr.config.specs import content
from dsr.data.npz import write_arrays

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]

OUTPUT = "output"
"""Name of the last layer: the encoder's final feature, or the clean latents that the denoiser predicts."""


@dataclass(frozen=True)
class TokenMaps:
    """Maps of I images at T times after L layers on S x S tokens, with R registers.

    Layers are named by the number of blocks passed ('1' is after the first block); the last is :data:`OUTPUT`. An
    encoder sees clean images and has the single time 0.
    """

    indices: npt.NDArray[np.int64]
    """Validation images, (I,)."""
    images: npt.NDArray[np.uint8]
    """The images themselves, (I, H, W, 3)."""
    times: npt.NDArray[np.float32]
    """Flow times t, (T,); 0 is data, 1 is noise."""
    layers: npt.NDArray[np.str_]
    """Names of layers, (L,)."""
    norms: npt.NDArray[np.float32]
    """Token norms, (I, T, L, S, S)."""
    components: npt.NDArray[np.float32]
    """Projections on the first principal component of each map, (I, T, L, S, S)."""
    explained: npt.NDArray[np.float32]
    """Share of variance that the component explains, (I, T, L)."""
    attention: npt.NDArray[np.float32]
    """Attention received by every image token in the layer's block, (I, T, L, S, S); NaN where there is no block."""
    register_attention: npt.NDArray[np.float32]
    """Attention received by all registers together, (I, T, L); 0 without registers, NaN where there is no block."""
    register_norms: npt.NDArray[np.float32]
    """Norms of registers, (I, T, L, R); NaN where there are none."""
    decoded: npt.NDArray[np.uint8]
    """Decoded one-step prediction (denoiser) or reconstruction (encoder), (I, T, H, W, 3)."""

    def save(self, path: Path, spec: BaseModel) -> None:
        """Write all arrays as one npz, and the specification that they were made from."""
        write_arrays(path, vars(self), {"spec": content(spec)}, compress=True)

    @classmethod
    def load(cls, path: Path) -> "TokenMaps":
        """Read a maps file; any other is a UserError."""
        with np.load(path, allow_pickle=False) as file:
            missing = [field.name for field in fields(cls) if field.name not in file.files]
            if missing:
                raise UserError(f"{path}: not a maps file ({', '.join(missing)} missing); make it anew")
            return cls(**{field.name: file[field.name] for field in fields(cls)})

    def layer(self, name: str) -> int:
        """Return the position of a layer."""
        return _position(self.layers.tolist(), name, "layer")

    def time(self, value: float) -> int:
        """Return the position of a time."""
        return _position([round(float(time), 6) for time in self.times], round(value, 6), "time")

    def image(self, index: int) -> int:
        """Return the position of a validation image."""
        return _position(self.indices.tolist(), index, "image")


def _position(known: Sequence[Any], wanted: Any, kind: str) -> int:
    if wanted not in known:
        raise UserError(f"{kind} {wanted} is not in the maps; known: {', '.join(map(str, known))}")
    return known.index(wanted)


def relative_norms(norms: Floats) -> npt.NDArray[np.float64]:
    """Norms (..., S, S) as multiples of their own grid's median norm; 1 where both are zero."""
    values = norms.astype(np.float64)
    medians = np.median(values, axis=(-2, -1), keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values == medians, 1.0, values / medians)


def outlier_ratio(norms: Floats, multiple: float) -> npt.NDArray[np.float64]:
    """Fraction of outlier tokens of norm grids: (..., S, S) -> (...), by the project's only criterion.

    A token is an outlier when its norm exceeds ``multiple`` times the median token norm of the same image after the
    same block. The paper does not publish its criterion; a multiple of the median needs no threshold per model, layer
    or noise level, and the median does not move while fewer than half of the tokens are outliers. Registers are not
    image tokens and take no part.
    """
    return np.asarray((relative_norms(norms) > multiple).mean(axis=(-2, -1)))
