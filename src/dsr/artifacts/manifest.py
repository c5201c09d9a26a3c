"""The list of everything that is fetched, typed: `manifest.yaml` beside this file."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from dsr.base.errors import UserError, problems
from dsr.config.base import Positive, Section
from dsr.config.load import Config
from dsr.config.specs import AutoencoderSpec, EncoderSpec, ModelSpec

PACKAGED = Path(__file__).with_name("manifest.yaml")
"""The manifest that is used unless another is named."""

MANIFEST = "src/dsr/artifacts/manifest.yaml"
"""Where messages say that addresses stand."""

OWN_COPY = "give a copy of your own (`artifacts` in config.yaml)"
"""What messages advise where nothing can be downloaded."""

PIXELS, TOKENS = 256, 16
"""Sides of the images that published decoders make, and of the latents that they make them from."""


class HubSource(Section):
    """Files of a Hugging Face repository."""

    client: Literal["hub"]
    repository: str
    """Owner/name."""
    folder: str = ""
    """Folder of the repository that has the files."""
    revision: str
    """Commit, tag or branch; the commit that it stands for is recorded at the first download and kept."""


class DriveSource(Section):
    """A file below a public Google Drive folder."""

    client: Literal["drive"]
    folder: str
    """Id of the folder."""
    path: str
    """Path of the file below it."""


class HttpSource(Section):
    """A file at an address."""

    client: Literal["http"]
    url: Annotated[str, Field(pattern=r"^https?://")]


class KaggleSource(Section):
    """One split of the images in a Kaggle competition's archive."""

    client: Literal["kaggle"]
    competition: str
    split: Literal["train", "validation"]


Source = Annotated[HubSource | DriveSource | HttpSource | KaggleSource, Field(discriminator="client")]


class ImageCount(Section):
    """How many images, in how many class folders, an ImageFolder must hold."""

    images: Positive
    classes: Positive


class ImagesCheck(Section):
    """An ImageFolder: one folder of images per class."""

    kind: Literal["images"]


class EncoderCheck(Section):
    """A Hugging Face folder (config.json, model.safetensors, preprocessor_config.json) of a vision transformer."""

    kind: Literal["encoder"]
    model_type: Literal["siglip", "dinov2", "dinov2_with_registers"]
    """What config.json calls the architecture."""
    width: Positive
    positions: Positive
    """Rows of the position table."""
    depth: Positive
    intermediate_size: Positive
    """Hidden width of the MLP."""


class WeightsCheck(Section):
    """Every tensor there, in the right shape, and no other; safetensors, made of a PyTorch file of its publisher."""

    kind: Literal["decoder", "denoiser", "statistics"]
    metadata: dict[str, str] = Field(default_factory=dict)
    """What is known of the training run: epoch, decay of the moving average."""


class FileCheck(Section):
    """A file of the evaluator that names certain things; whether it can be used is said where it is."""

    kind: Literal["graph", "arrays"]
    """A frozen TensorFlow graph, or an npz."""
    names: tuple[str, ...]
    """Nodes of the graph, arrays of the npz."""


Check = Annotated[ImagesCheck | EncoderCheck | WeightsCheck | FileCheck, Field(discriminator="kind")]
"""What the content must be; what depends on the configuration is in the specification that it is for."""

SPECIFICATIONS: dict[str, type[Section]] = {
    "images": ImageCount,
    "encoder": EncoderSpec,
    "statistics": EncoderSpec,
    "decoder": AutoencoderSpec,
    "denoiser": ModelSpec,
}
"""What content of a kind is for."""


class Artifact(Section):
    """One thing to fetch."""

    about: str
    source: Source | None
    """Where it comes from; null: nobody publishes it, and users give a copy of their own."""
    files: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")], ...], Field(min_length=1)]
    """Names, without folders, of what the source hands out."""
    gigabytes: Annotated[float, Field(gt=0)] | None = None
    """About how much the source hands out, to plan with; nothing is checked against it. null: nobody knows."""
    licence: str | None
    """Name of the licence; null: the publisher states none that is known here."""
    accept: str | None = None
    """Where its terms must be accepted before the download; null: nothing needs to be accepted."""
    check: Check

    @property
    def page(self) -> str:
        """Web page of the source; of an address without its query, which may be a signature."""
        match self.source:
            case HubSource(repository=repository, revision=revision, folder=folder):
                return f"https://huggingface.co/{repository}" + (f"/tree/{revision}/{folder}" if folder else "")
            case DriveSource(folder=folder):
                return f"https://drive.google.com/drive/folders/{folder}"
            case HttpSource(url=url):
                return url.partition("?")[0]
            case KaggleSource(competition=competition):
                return f"https://www.kaggle.com/competitions/{competition}"
            case None:
                return "nobody"

    @property
    def terms(self) -> str:
        """Web page where terms are accepted."""
        return self.accept or self.page

    @model_validator(mode="after")
    def _consistent(self) -> "Artifact":
        if len(self.files) > 1 and self.check.kind != "encoder":
            raise ValueError(f"files: content of kind '{self.check.kind}' is one file")
        if isinstance(self.source, KaggleSource) != isinstance(self.check, ImagesCheck):
            raise ValueError("source: images come from kaggle, and nothing else does")
        return self


class Manifest(Section):
    """Everything that can be fetched, by id."""

    artifacts: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], Artifact]

    def publishes(self, identifier: str) -> bool:
        """Whether there is such an artifact, and it can be downloaded."""
        return identifier in self.artifacts and self.artifacts[identifier].source is not None

    def refuse_unknown(self, names: Iterable[str]) -> None:
        """Refuse, by UserError, what a configuration needs or gives and the manifest does not have."""
        if unknown := [name for name in names if name not in self.artifacts]:
            raise UserError(
                f"{', '.join(unknown)} not in {MANIFEST} (misspelt in `artifacts`?). It has: "
                f"{', '.join(self.artifacts)}. An encoder needs its files there, `{{id}}` and `decoder-{{id}}`"
            )

    def refuse_other_sizes(self, config: Config, names: Iterable[str]) -> None:
        """Refuse, by UserError, images of another size than the published decoders among ``names`` make."""
        for name in names:
            _, decoder, encoder = name.partition("decoder-")
            if decoder and self.publishes(name) and not config.copies.get(name):
                size, grid = config.data.image_size, config.encoders[encoder].grid
                if (size, grid) != (PIXELS, TOKENS):
                    raise UserError(
                        f"data.image_size: {size} from {grid} x {grid} tokens, but the published {name} makes"
                        f" {PIXELS} x {PIXELS} from {TOKENS} x {TOKENS}; give your own (artifacts.{name}: its file)"
                    )


def load(path: Path = PACKAGED) -> Manifest:
    """Read and validate a manifest.

    Raises:
        UserError: naming the file and every wrong key.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    try:
        # Strict validation of Python values would refuse the lists that YAML has for tuples.
        return Manifest.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise UserError(f"{path}: not a valid manifest ({'; '.join(problems(error))})") from None
