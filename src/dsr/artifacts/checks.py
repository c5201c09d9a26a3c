"""What the content of an artifact must be, and whether a configuration can use it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from dsr.artifacts.errors import ArtifactError, problems
from dsr.config.base import Positive, Section
from dsr.config.encoders import Decoder
from dsr.config.specs import AutoencoderSpec, EncoderSpec, ModelSpec


class ImageCount(Section):
    """How many images an ImageFolder must hold."""

    images: Positive
    """Images in all classes together."""
    classes: Positive
    """Class folders."""


class ImagesCheck(ImageCount):
    """An ImageFolder: one folder of images per class."""

    kind: Literal["images"]


class EncoderCheck(Section):
    """A Hugging Face folder (config.json, model.safetensors, preprocessor_config.json) of a vision transformer."""

    kind: Literal["encoder"]
    model_type: Literal["siglip", "dinov2", "dinov2_with_registers"]
    """What config.json calls the architecture."""
    width: Positive
    """Width of a token."""
    patch_size: Positive
    """Side of a patch in pixels."""
    positions: Positive
    """Rows of the position table."""
    depth: Positive
    """Number of blocks."""
    intermediate_size: Positive
    """Hidden width of the MLP."""


class DecoderCheck(Section):
    """Weights of the pixel decoder: every tensor there, in the right shape, and no other."""

    kind: Literal["decoder"]
    channels: Positive
    """Channels of a latent."""
    grid: Positive
    """Side of a latent in tokens."""
    image_size: Positive
    """Side of the decoded image in pixels."""
    decoder: Decoder
    """Shape of the transformer."""
    unused: tuple[str, ...] = ()
    """Tensors of the published file that the decoder does not have and that are dropped."""


class StatisticsCheck(Section):
    """Mean and variance of latents, float32 of one shape (C, S, S)."""

    kind: Literal["statistics"]
    shape: tuple[Positive, Positive, Positive]
    """(C, S, S)."""


class DenoiserCheck(Section):
    """Weights of a denoiser: every tensor there, in the right shape, and no other."""

    kind: Literal["denoiser"]
    model: ModelSpec
    """The denoiser that they belong to."""
    metadata: dict[str, str]
    """What is known of the training run: row, epoch, decay of the moving average."""


class GraphCheck(Section):
    """A frozen TensorFlow graph that names certain nodes; whether it can be used is seen when it is."""

    kind: Literal["graph"]
    nodes: tuple[str, ...]
    """Nodes that the evaluator feeds or reads."""


class ArraysCheck(Section):
    """An npz whose arrays have certain shapes; others may be there too."""

    kind: Literal["arrays"]
    shapes: dict[str, tuple[int, ...]]
    """Array -> shape."""


WeightsCheck = DecoderCheck | DenoiserCheck | StatisticsCheck
"""Kinds that publishers hand out as PyTorch files and the workflow uses as safetensors."""

Check = Annotated[
    ImagesCheck | EncoderCheck | WeightsCheck | GraphCheck | ArraysCheck,
    Field(discriminator="kind"),
]

_SPECIFICATIONS: dict[str, type[Section]] = {
    "images": ImageCount,
    "encoder": EncoderSpec,
    "statistics": EncoderSpec,
    "decoder": AutoencoderSpec,
    "denoiser": ModelSpec,
}


def adapted(check: Check, specification: str) -> Check:
    """Return the check that content for a configuration must pass: ``check`` with what the configuration fixes.

    Args:
        check: the manifest's.
        specification: JSON of an EncoderSpec (encoder, statistics), an AutoencoderSpec (decoder), a ModelSpec
            (denoiser) or an ImageCount (images).

    Raises:
        ArtifactError: if the JSON is not that, or nothing about this content depends on the configuration.
    """
    if check.kind not in _SPECIFICATIONS:
        raise ArtifactError(
            f"--spec: content of kind '{check.kind}' does not depend on the configuration; leave it out"
        )
    expected = _SPECIFICATIONS[check.kind]
    try:
        spec = expected.model_validate_json(specification)
    except ValidationError as error:
        raise ArtifactError(f"--spec is not the JSON of {expected.__name__} ({problems(error)})") from None
    return check.model_copy(update=_fixed(check, spec))


def _fixed(check: Check, spec: Section) -> dict[str, Any]:
    match spec:
        case ModelSpec():
            return {"model": spec}
        case AutoencoderSpec(encoder=encoder, decoder=decoder):
            grid = encoder.grid
            return {"channels": encoder.width, "grid": grid, "image_size": spec.image_size, "decoder": decoder}
        case EncoderSpec(encoder=encoder) if check.kind == "encoder":
            return {"width": encoder.width, "patch_size": encoder.patch_size}
        case EncoderSpec():
            return {"shape": spec.latent_shape}
    return spec.model_dump()
