"""From what a source hands out to what the workflow uses, by kind of content; frameworks are imported where needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsr.artifacts import imagenet
from dsr.artifacts.checks import DenoiserCheck, EncoderCheck, FileCheck, ImageCount, ImagesCheck, WeightsCheck
from dsr.artifacts.errors import ArtifactError, ContentError
from dsr.artifacts.manifest import Artifact, KaggleSource
from dsr.base import files
from dsr.base.errors import UserError
from dsr.config.base import Section
from dsr.config.encoders import ENCODER_FILES
from dsr.data import npz


@dataclass(frozen=True)
class Content:
    """One artifact as it is published: what is loaded later is loaded once before."""

    identifier: str
    artifact: Artifact
    spec: Section
    """What it is for."""
    output: Path
    """File or folder to publish."""

    def exists(self) -> bool:
        """Whether everything that would be published is there, whatever it holds."""
        if isinstance(self.artifact.check, EncoderCheck):
            return all((self.output / name).exists() for name in ENCODER_FILES)
        return any(self.output.iterdir()) if self.output.is_dir() else self.output.exists()

    def is_converted(self, path: Path) -> bool:
        """Whether ``path`` has the form in which the workflow uses it, and its publisher hands out another."""
        return isinstance(self.artifact.check, WeightsCheck) and path.suffix == ".safetensors"

    def verify(self, path: Path) -> None:
        """Check content in the form in which it is published.

        Raises:
            ContentError: saying what is wrong with it.
        """
        check, spec = self.artifact.check, self.spec
        self._refuse_form(path)
        try:
            if isinstance(spec, ImageCount):
                imagenet.verify(path, spec)
            elif isinstance(check, FileCheck):
                look_for_names(check, path)
            elif not isinstance(check, ImagesCheck):
                from dsr.artifacts import weights

                weights.verify(check, spec, path)
        except UserError as error:
            raise ContentError(str(error)) from None

    def publish_download(self, folder: Path) -> None:
        """Check what was downloaded, convert or arrange it where needed, and publish it.

        Args:
            folder: holds the files of the manifest, on the file system of the output.

        Raises:
            ContentError: if the content is wrong; the download stays.
        """
        first = folder / self.artifact.files[0].name
        if isinstance(self.artifact.check, EncoderCheck):
            self.verify(folder)
            # The configuration last: while it is missing, nobody takes the folder for complete.
            for name in sorted(ENCODER_FILES, key=lambda name: name == "config.json"):
                _move(folder / name, self.output / name)
        elif isinstance(self.artifact.check, FileCheck):
            self.verify(first)
            _move(first, self.output)
        else:
            self._arrange(first)

    def publish_local(self, local: Path) -> None:
        """Check a user's own copy and link to it; what needs another form is made from it without touching it.

        Raises:
            ContentError: if it is not there or its content is wrong.
            ArtifactError: if something else than an earlier link is in the way.
        """
        if not local.exists():
            raise ContentError(f"{local}: no such file or folder")
        if isinstance(self.artifact.check, EncoderCheck):
            self.verify(local)
            # File by file: the folder is the workflow's own, and nothing may be written into the user's.
            for name in ENCODER_FILES:
                _link(local / name, self.output / name)
        elif isinstance(self.artifact.check, FileCheck) or self.is_converted(local):
            self.verify(local)
            _link(local, self.output)
        else:
            self._arrange(local)

    def _arrange(self, given: Path) -> None:
        """Make what the workflow uses of the publisher's form."""
        check, spec, source = self.artifact.check, self.spec, self.artifact.source
        if isinstance(check, WeightsCheck):
            from dsr.artifacts import weights

            self._refuse_form(given)
            about = {"artifact": self.identifier, "source": f"{self.artifact.page} {self.artifact.files[0].name}"}
            if isinstance(check, DenoiserCheck):
                about |= check.metadata
            weights.convert(check, spec, given, self.output, about)
        elif isinstance(source, KaggleSource) and isinstance(spec, ImageCount):
            tree = given / imagenet.FOLDERS[source.split]
            if given.is_file() or (tree.is_dir() and source.split == "validation"):
                _replace(imagenet.arrange(given, source.split, self.output, spec), self.output)
            else:
                images = tree if tree.is_dir() else given
                self.verify(images)
                _link(images, self.output)

    def _refuse_form(self, path: Path) -> None:
        """Refuse a folder where a file belongs, and a folder that is not an encoder's."""
        check = self.artifact.check
        if path.is_dir() and not isinstance(check, EncoderCheck | ImagesCheck):
            raise ContentError(f"{path}: is a folder, expected the file itself")
        missing = [name for name in ENCODER_FILES if not (path / name).is_file()]
        if missing and isinstance(check, EncoderCheck):
            raise ContentError(f"{path}: lacks {missing[0]}; expected a folder with {', '.join(ENCODER_FILES)}")


def look_for_names(check: FileCheck, path: Path) -> None:
    """Refuse a file that is another one; nothing is unpickled, and no framework is needed."""
    if check.kind == "arrays":
        missing = sorted(set(check.names).difference(npz.keys(path)))
    else:
        content = path.read_bytes()
        missing = [name for name in check.names if name.encode() not in content]
    if missing:
        raise ContentError(f"{path}: lacks {', '.join(missing)}; it is another file than expected, or cut off")


def _move(part: Path, output: Path) -> None:
    """Move a complete file to ``output`` (same file system), replacing what is there."""
    with files.atomic(output) as temporary:
        part.replace(temporary)


def _link(target: Path, output: Path) -> None:
    """Make ``output`` a symbolic link to ``target``."""
    output.parent.mkdir(parents=True, exist_ok=True)
    link = output.with_name(f".{output.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(target.absolute())
    _replace(link, output)


def _replace(made: Path, output: Path) -> None:
    """Give ``made``, a folder or link beside it, the name ``output``; only links and empty folders make way."""
    if output.is_symlink():
        output.unlink()
    elif output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    elif output.exists():
        raise ArtifactError(f"{output}: is in the way and will not be overwritten; remove it and run the command again")
    made.replace(output)
