"""The list of everything that is fetched, typed: `manifest.yaml` beside this file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from dsr.artifacts.checks import Check
from dsr.artifacts.errors import ArtifactError
from dsr.base.errors import first_problem
from dsr.config.base import Positive, Section

PACKAGED = Path(__file__).with_name("manifest.yaml")
"""The manifest that is used unless another is named."""


class File(Section):
    """One file as the publisher hands it out."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    """Name without folders."""
    size: Positive | None
    """Bytes; null: not known in advance, recorded at the first download and enforced afterwards."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    """Hex SHA-256; null as for size."""


class Licence(Section):
    """On what terms the artifact may be used."""

    name: str | None
    """Name of the licence; null: the publisher states none that is known here."""
    accept: str | None = None
    """Where it must be accepted before the download; null: nothing needs to be accepted."""


class HubSource(Section):
    """Files of a Hugging Face repository."""

    client: Literal["hub"]
    repository: str
    """Owner/name."""
    revision: str
    """Commit, tag or branch; the commit that it stands for is recorded at the first download and kept."""

    @property
    def page(self) -> str:
        """Web page of the source."""
        return f"https://huggingface.co/{self.repository}"


class DriveSource(Section):
    """A file below a public Google Drive folder."""

    client: Literal["drive"]
    folder: str
    """Id of the folder."""
    path: str
    """Path of the file below it."""

    @property
    def page(self) -> str:
        """Web page of the source."""
        return f"https://drive.google.com/drive/folders/{self.folder}"


class HttpSource(Section):
    """A file at an address."""

    client: Literal["http"]
    url: Annotated[str, Field(pattern=r"^https?://")]
    """The address."""

    @property
    def page(self) -> str:
        """Web page of the source: the address without a query, which may be a signature."""
        return self.url.partition("?")[0]


class KaggleSource(Section):
    """One split of the images in a Kaggle competition's archive."""

    client: Literal["kaggle"]
    competition: str
    """Name of the competition."""
    split: Literal["train", "validation"]
    """Which images of the archive."""

    @property
    def page(self) -> str:
        """Web page of the source."""
        return f"https://www.kaggle.com/competitions/{self.competition}"


class NoSource(Section):
    """Nobody publishes it: users give a copy of their own."""

    client: Literal["none"]

    @property
    def page(self) -> str:
        """What stands for a web page."""
        return "nobody"


Source = Annotated[HubSource | DriveSource | HttpSource | KaggleSource | NoSource, Field(discriminator="client")]


class Artifact(Section):
    """One thing to fetch."""

    about: str
    """What it is."""
    source: Source
    """Where it comes from."""
    files: Annotated[tuple[File, ...], Field(min_length=1)]
    """What the source hands out."""
    gigabytes: Annotated[float, Field(gt=0)] | None = None
    """About how much the source hands out, to plan with; nothing is checked against it. null: nobody knows."""
    licence: Licence
    """On what terms."""
    check: Check
    """What its content must be."""

    @model_validator(mode="after")
    def _consistent(self) -> Artifact:
        if len(self.files) > 1 and self.check.kind != "encoder":
            raise ValueError(f"files: content of kind '{self.check.kind}' is one file")
        if (self.source.client == "kaggle") != (self.check.kind == "images"):
            raise ValueError("source: images come from kaggle, and nothing else does")
        return self


class Manifest(Section):
    """Everything that can be fetched, by id."""

    artifacts: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], Artifact]

    def get(self, identifier: str) -> Artifact:
        """Return an artifact.

        Raises:
            ArtifactError: if there is none of this id; the message lists them.
        """
        if identifier not in self.artifacts:
            raise ArtifactError(f"'{identifier}' is not in the manifest. It has: {', '.join(self.artifacts)}")
        return self.artifacts[identifier]

    def refuse_missing(self, names: Iterable[str]) -> None:
        """Refuse encoders of the configuration whose files could not be fetched.

        Args:
            names: ids of the encoders and decoders that are needed and not in place.

        Raises:
            ArtifactError: naming those that the manifest does not have.
        """
        missing = [name for name in names if name not in self.artifacts]
        if missing:
            raise ArtifactError(
                f"encoders: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not in {PACKAGED}. An encoder "
                "needs its files there, `{id}` and `decoder-{id}`; add them as the other encoders' are"
            )

    def refuse_unknown(self, names: Iterable[str]) -> None:
        """Refuse ids under `artifacts` in config.yaml that would silently do nothing.

        Raises:
            ArtifactError: naming them and listing those that there are.
        """
        unknown = [name for name in names if name not in self.artifacts]
        if unknown:
            raise ArtifactError(
                f"artifacts: {', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} not in the manifest "
                f"(misspelt?). It has: {', '.join(self.artifacts)}"
            )


def load(path: Path = PACKAGED) -> Manifest:
    """Read and validate a manifest.

    Raises:
        ArtifactError: naming the file and every wrong key.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such manifest") from None
    except yaml.YAMLError as error:
        raise ArtifactError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    try:
        # Strict validation of Python values would refuse the lists that YAML has for tuples.
        return Manifest.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a valid manifest ({first_problem(error)})") from None
