"""From what a source hands out to what the workflow uses, by kind of content; frameworks are imported where needed."""

from __future__ import annotations

from pathlib import Path

from dsr.artifacts import formats, imagenet, images, publish
from dsr.artifacts.checks import (
    ArraysCheck,
    Check,
    DecoderCheck,
    DenoiserCheck,
    EncoderCheck,
    GraphCheck,
    ImagesCheck,
    StatisticsCheck,
)
from dsr.artifacts.errors import ContentError
from dsr.artifacts.manifest import Artifact, KaggleSource
from dsr.encoder.folders import ENCODER_FILES

CONVERTED = DecoderCheck | DenoiserCheck | StatisticsCheck
"""Kinds that are published as safetensors files."""


def exists(check: Check, output: Path) -> bool:
    """Whether everything that would be published is there, whatever it holds."""
    if isinstance(check, EncoderCheck):
        return all((output / name).exists() for name in ENCODER_FILES)
    if isinstance(check, ImagesCheck):
        return output.is_dir() and any(output.iterdir())
    return output.exists()


def is_converted(check: Check, path: Path) -> bool:
    """Whether ``path`` has the form in which the workflow uses it, and its publisher hands out another."""
    return isinstance(check, CONVERTED) and path.suffix == ".safetensors"


def verify(check: Check, path: Path) -> None:
    """Check content in the form in which it is published.

    Raises:
        ContentError: saying what is wrong with it.
    """
    _refuse_form(check, path)
    if isinstance(check, ImagesCheck):
        images.verify(path, images=check.images, classes=check.classes)
    elif isinstance(check, EncoderCheck):
        formats.verify_encoder(check, path)
    elif isinstance(check, GraphCheck):
        formats.verify_graph(check, path)
    elif isinstance(check, ArraysCheck):
        formats.verify_arrays(check, path)
    else:
        from dsr.artifacts import weights

        weights.verify(check, path)


def publish_download(identifier: str, artifact: Artifact, downloaded: dict[str, Path], output: Path) -> None:
    """Check what was downloaded, convert or arrange it where needed, and publish it.

    Args:
        identifier: the artifact's id.
        artifact: the artifact.
        downloaded: file of the manifest -> where it lies, all in one folder on the file system of ``output``.
        output: where to.

    Raises:
        ContentError: if the content is wrong; the download stays.
    """
    check, source = artifact.check, artifact.source
    first = downloaded[artifact.files[0].name]
    if isinstance(check, ImagesCheck) and isinstance(source, KaggleSource):
        imagenet.from_archive(first, source.split, output, check)
    elif isinstance(check, EncoderCheck):
        verify(check, first.parent)
        # The configuration last: while it is missing, nobody takes the folder for complete.
        for name in sorted(downloaded, key=lambda name: name == "config.json"):
            publish.file(downloaded[name], output / name)
    elif isinstance(check, CONVERTED):
        _convert(identifier, artifact, check, first, output)
    else:
        verify(check, first)
        publish.file(first, output)


def publish_local(identifier: str, artifact: Artifact, check: Check, local: Path, output: Path) -> None:
    """Check a user's own copy and link to it; what needs another form is made from it without touching it.

    Raises:
        ContentError: if it is not there or its content is wrong.
    """
    if not local.exists():
        raise ContentError(f"{local}: no such file or folder")
    source = artifact.source
    if isinstance(check, ImagesCheck) and isinstance(source, KaggleSource) and local.is_file():
        imagenet.from_archive(local, source.split, output, check)
    elif isinstance(check, ImagesCheck) and isinstance(source, KaggleSource) and imagenet.is_tree(local, source.split):
        imagenet.from_tree(local, source.split, output, check)
    elif isinstance(check, CONVERTED) and not is_converted(check, local):
        _convert(identifier, artifact, check, local, output)
    elif isinstance(check, EncoderCheck):
        verify(check, local)
        # File by file: the folder is the workflow's own, and nothing may be written into the user's.
        for file in artifact.files:
            publish.link(local / file.name, output / file.name)
    else:
        verify(check, local)
        publish.link(local, output)


def _convert(identifier: str, artifact: Artifact, check: CONVERTED, source: Path, output: Path) -> None:
    from dsr.artifacts import weights

    _refuse_form(check, source)
    about = {"artifact": identifier, "source": f"{artifact.source.page} {artifact.files[0].name}"}
    if isinstance(check, DenoiserCheck):
        about |= check.metadata
    weights.convert(check, source, output, about)


def _refuse_form(check: Check, path: Path) -> None:
    """Refuse a folder where a file belongs, and a file where a folder does."""
    if path.is_dir() and not isinstance(check, EncoderCheck | ImagesCheck):
        raise ContentError(f"{path}: is a folder, expected the file itself")
    if path.is_file() and isinstance(check, EncoderCheck):
        raise ContentError(f"{path}: is a file, expected the folder that holds {', '.join(ENCODER_FILES)}")
    if path.is_file() and isinstance(check, ImagesCheck):
        raise ContentError(f"{path}: is a file, expected a folder with one sub-folder of images per class")
