"""The square centre crop that image-generation benchmarks share (ADM)."""

from __future__ import annotations

from PIL import Image


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the central ``size`` x ``size`` pixels after scaling the shorter side to ``size``.

    Large images are halved with a box filter as often as possible, then resized bicubically; smaller images are
    enlarged. Evaluation references made by others depend on exactly these steps.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
