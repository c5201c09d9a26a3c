"""The images."""

from __future__ import annotations

from typing import Literal

from dsr.config.base import Positive, Section


class Data(Section):
    """The images that everything is trained on and compared with."""

    source: Literal["imagefolder", "kaggle", "digits"]
    """Where images come from: existing ImageFolders, the Kaggle competition, or the demo's handwritten digits."""
    train: str | None = None
    """Existing ImageFolder of training images (source: imagefolder)."""
    validation: str | None = None
    """Existing ImageFolder of validation images (source: imagefolder)."""
    classes: Positive
    """Number of classes; the label after the last one is the null label."""
    train_images: Positive
    """Training images; with the batch it fixes the steps of an epoch."""
    validation_images: Positive
    """Validation images; the evaluation reference is made of them."""
    prepared: bool = True
    """Crop all images once, into shards; false crops them from the ImageFolder whenever they are read (same pixels)."""
    image_size: Positive
    """Side of the prepared square images in pixels (ADM centre crop)."""
    shards: Positive
    """Files that the prepared images of a split are spread over; each is one job."""
    flip: bool = True
    """Flip half of the training images horizontally."""
