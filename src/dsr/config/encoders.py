"""Images, encoders, test-time registers, decoder."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dsr.config.base import Positive, PositiveFloat, Section

Ttr = Literal["none", "single", "recursive"]

ENCODER_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
"""What the folder of an encoder holds, as the Hugging Face hub publishes it."""


class Data(Section):
    """The images that everything is trained on and compared with."""

    source: Literal["imagefolder", "kaggle", "digits", "made"]
    """Where images come from: existing ImageFolders, the Kaggle competition, the demo's handwritten digits, or a
    rehearsal's noise (which makes encoders and decoders too, where the paper's results have none)."""
    train: str | None = None
    """Existing ImageFolder of training images, one folder per class (source: imagefolder)."""
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


class Encoder(Section):
    """A frozen image encoder; its files are `{id}` and `decoder-{id}` in `src/dsr/artifacts/manifest.yaml`."""

    family: Literal["siglip2", "dinov2"]
    """Which class in `dsr/encoder` loads it."""
    hub: str
    """Model id on the Hugging Face hub."""
    revision: str
    """Revision (commit or tag) on the hub."""
    input_size: Positive
    """Side of the square image that the encoder sees; other sizes are resized (bicubic, no antialiasing)."""
    patch_size: Positive
    """Side of a patch in pixels of the encoder's input."""
    width: Positive
    """Width of a token: the number of latent channels."""
    neurons: Literal["released", "discovered"]
    """Register neurons: the release's lists, or found by the workflow on `discovery.images` images, as are those that
    the release does not have (So400M with a single pass)."""
    statistics: Literal["released", "computed"]
    """Latent statistics: the release's files, or computed by the workflow over the training images, as are those that
    the release does not have (So400M with a single pass)."""

    norm_threshold: Annotated[PositiveFloat | None, Field(exclude=True)] = None
    """The encoder's own `discovery.norm_threshold`; no part of what determines latents."""

    @model_validator(mode="after")
    def _whole_patches(self) -> "Encoder":
        if self.input_size % self.patch_size:
            raise ValueError(f"input_size {self.input_size} is not a multiple of patch_size {self.patch_size}")
        return self

    @property
    def grid(self) -> int:
        """Tokens along one side."""
        return self.input_size // self.patch_size


class TestTimeRegisters(Section):
    """How test-time registers (TTR) intervene. The defaults are the release's behaviour, quirks included."""

    registers: Positive = 1
    """Register tokens appended to the encoder's sequence."""
    maximum: Literal["shared", "per-neuron"] = "shared"
    """The release gives all neurons of a layer one shared extreme value; per-neuron gives each its own."""
    first_token: Literal["kept", "zeroed"] = "kept"
    """The release never zeroes token 0 (its code expects a CLS token there; SigLIP2 has none)."""


class Discovery(Section):
    """How register neurons are found (Section 3 of the test-time-register method)."""

    images: Positive
    """Training images looked at."""
    norm_threshold: PositiveFloat
    """A token is an outlier when the L2 norm of the detection layer's output exceeds this."""
    layer: int = -1
    """Detection layer; -1 is the last block, before the final LayerNorm."""
    top_k: Positive
    """Neurons kept per pass."""


class Stack(Section):
    """The shape of one stack of transformer blocks."""

    hidden_size: Positive
    """Width of a token."""
    depth: Positive
    """Number of blocks."""
    num_heads: Positive
    """Attention heads."""


class Decoder(Stack):
    """The ViT that decodes latents to pixels; trained by others (paper) or by the demo."""

    intermediate_size: Positive
    """Hidden width of the MLP."""

    @model_validator(mode="after")
    def _whole_heads(self) -> "Decoder":
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_heads ({self.num_heads}) and of 4"
            )
        return self
