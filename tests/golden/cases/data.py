"""Golden cases of image preparation."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dsr.data.images import center_crop

from .common import Computed, Family, Golden, Tolerance


def crops(golden: Golden) -> Computed:
    """Crop every recorded image, whatever its size."""
    size = golden.meta["image_size"]
    return {
        name.replace("image", "crop"): np.asarray(center_crop(Image.fromarray(image), size))
        for name, image in golden.inputs.items()
    }


FAMILIES: dict[str, Family] = {"center_crop": Family(crops, Tolerance())}
