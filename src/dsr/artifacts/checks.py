"""What the content of an artifact must be, and whether a configuration can use it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from dsr.artifacts.errors import ArtifactError
from dsr.config.base import Positive, Section
from dsr.config.encoders import Decoder
from dsr.config.specs import AutoencoderSpec, EncoderSpec, ModelSpec

Spec = TypeVar("Spec", bound=Section)


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
    """A frozen TensorFlow graph that holds certain nodes."""

    kind: Literal["graph"]
    nodes: tuple[str, ...]
    """Nodes that the evaluator feeds or reads."""


class ArraysCheck(Section):
    """An npz whose arrays have certain shapes; others may be there too."""

    kind: Literal["arrays"]
    shapes: dict[str, tuple[int, ...]]
    """Array -> shape."""


Check = Annotated[
    ImagesCheck | EncoderCheck | DecoderCheck | StatisticsCheck | DenoiserCheck | GraphCheck | ArraysCheck,
    Field(discriminator="kind"),
]


def adapted(check: Check, specification: str) -> Check:
    """Return the check that content for a configuration must pass: ``check`` with what the configuration fixes.

    Args:
        check: the manifest's.
        specification: JSON of an EncoderSpec (encoder, statistics), an AutoencoderSpec (decoder), a ModelSpec
            (denoiser) or an ImageCount (images).

    Raises:
        ArtifactError: if the JSON is not that, or nothing about this content depends on the configuration.
    """
    if isinstance(check, ImagesCheck):
        return check.model_copy(update=parse(ImageCount, specification).model_dump())
    if isinstance(check, DenoiserCheck):
        return check.model_copy(update={"model": parse(ModelSpec, specification)})
    if isinstance(check, GraphCheck | ArraysCheck):
        raise ArtifactError(
            f"--spec: content of kind '{check.kind}' does not depend on the configuration; leave it out"
        )
    changes: dict[str, Any]
    if isinstance(check, DecoderCheck):
        whole = parse(AutoencoderSpec, specification)
        channels, grid, _ = whole.latent_shape
        changes = {"channels": channels, "grid": grid, "image_size": whole.image_size, "decoder": whole.decoder}
    elif isinstance(check, EncoderCheck):
        encoder = parse(EncoderSpec, specification).encoder
        changes = {"width": encoder.width, "patch_size": encoder.patch_size}
    else:
        changes = {"shape": parse(EncoderSpec, specification).latent_shape}
    return check.model_copy(update=changes)


def parse(kind: type[Spec], specification: str) -> Spec:
    """Read a specification.

    Raises:
        ArtifactError: if the JSON is not of this kind.
    """
    try:
        return kind.model_validate_json(specification)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "text"
        raise ArtifactError(f"--spec is not the JSON of {kind.__name__} ({place}: {problem['msg']})") from None
