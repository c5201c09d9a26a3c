"""What the content of an artifact must be; what depends on the configuration is in the specification it is for."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dsr.config.base import Positive, Section
from dsr.config.specs import AutoencoderSpec, EncoderSpec, ModelSpec


class ImageCount(Section):
    """How many images an ImageFolder must hold."""

    images: Positive
    """Images in all classes together."""
    classes: Positive
    """Class folders."""


class ImagesCheck(Section):
    """An ImageFolder: one folder of images per class."""

    specification: ClassVar[type[Section] | None] = ImageCount
    kind: Literal["images"]


class EncoderCheck(Section):
    """A Hugging Face folder (config.json, model.safetensors, preprocessor_config.json) of a vision transformer."""

    specification: ClassVar[type[Section] | None] = EncoderSpec
    kind: Literal["encoder"]
    model_type: Literal["siglip", "dinov2", "dinov2_with_registers"]
    """What config.json calls the architecture."""
    width: Positive
    """Width of a token."""
    positions: Positive
    """Rows of the position table."""
    depth: Positive
    """Number of blocks."""
    intermediate_size: Positive
    """Hidden width of the MLP."""


class DecoderCheck(Section):
    """Weights of the pixel decoder: every tensor there, in the right shape, and no other."""

    specification: ClassVar[type[Section] | None] = AutoencoderSpec
    kind: Literal["decoder"]
    unused: tuple[str, ...] = ()
    """Tensors of the published file that the decoder does not have and that are dropped."""


class StatisticsCheck(Section):
    """Mean and variance of latents, float32 of one shape (C, S, S)."""

    specification: ClassVar[type[Section] | None] = EncoderSpec
    kind: Literal["statistics"]


class DenoiserCheck(Section):
    """Weights of a denoiser: every tensor there, in the right shape, and no other."""

    specification: ClassVar[type[Section] | None] = ModelSpec
    kind: Literal["denoiser"]
    metadata: dict[str, str]
    """What is known of the training run: row, epoch, decay of the moving average."""


class FileCheck(Section):
    """A file of the evaluator that names certain things; whether it can be used is said where it is."""

    specification: ClassVar[type[Section] | None] = None
    kind: Literal["graph", "arrays"]
    """A frozen TensorFlow graph, or an npz."""
    names: tuple[str, ...]
    """Nodes of the graph, arrays of the npz."""


WeightsCheck = DecoderCheck | DenoiserCheck | StatisticsCheck
"""Kinds that publishers hand out as PyTorch files and the workflow uses as safetensors."""

Check = Annotated[
    ImagesCheck | EncoderCheck | WeightsCheck | FileCheck,
    Field(discriminator="kind"),
]
