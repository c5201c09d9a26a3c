"""From what a source hands out to what the workflow uses, by kind of content; frameworks are imported where needed."""

from __future__ import annotations

from pathlib import Path

from dsr.artifacts import imagenet
from dsr.artifacts.checks import (
    ArraysCheck,
    Check,
    DenoiserCheck,
    EncoderCheck,
    GraphCheck,
    ImagesCheck,
    WeightsCheck,
)
from dsr.artifacts.errors import ArtifactError, ContentError
from dsr.artifacts.manifest import Artifact, KaggleSource
from dsr.base import files
from dsr.base.errors import UserError
from dsr.config.encoders import ENCODER_FILES
from dsr.data import npz


def exists(check: Check, output: Path) -> bool:
    """Whether everything that would be published is there, whatever it holds."""
    if isinstance(check, EncoderCheck):
        return all((output / name).exists() for name in ENCODER_FILES)
    if isinstance(check, ImagesCheck):
        return output.is_dir() and any(output.iterdir())
    return output.exists()


def is_converted(check: Check, path: Path) -> bool:
    """Whether ``path`` has the form in which the workflow uses it, and its publisher hands out another."""
    return isinstance(check, WeightsCheck) and path.suffix == ".safetensors"


def verify(check: Check, path: Path) -> None:
    """Check content in the form in which it is published: what the workflow loads is loaded.

    Raises:
        ContentError: saying what is wrong with it.
    """
    _refuse_form(check, path)
    try:
        if isinstance(check, ImagesCheck):
            imagenet.verify(path, check)
        elif isinstance(check, GraphCheck):
            _verify_graph(check, path)
        elif isinstance(check, ArraysCheck):
            _verify_arrays(check, path)
        else:
            from dsr.artifacts import weights

            weights.verify_encoder(check, path) if isinstance(check, EncoderCheck) else weights.verify(check, path)
    except UserError as error:
        raise ContentError(str(error)) from None


def publish_download(identifier: str, artifact: Artifact, folder: Path, output: Path) -> None:
    """Check what was downloaded, convert or arrange it where needed, and publish it.

    Args:
        identifier: the artifact's id.
        artifact: the artifact.
        folder: holds the files of the manifest, on the file system of ``output``.
        output: where to.

    Raises:
        ContentError: if the content is wrong; the download stays.
    """
    check, source = artifact.check, artifact.source
    first = folder / artifact.files[0].name
    if isinstance(check, ImagesCheck) and isinstance(source, KaggleSource):
        _publish_images(check, source.split, first, output)
    elif isinstance(check, EncoderCheck):
        verify(check, folder)
        # The configuration last: while it is missing, nobody takes the folder for complete.
        for name in sorted(ENCODER_FILES, key=lambda name: name == "config.json"):
            _move(folder / name, output / name)
    elif isinstance(check, WeightsCheck):
        _convert(identifier, artifact, check, first, output)
    else:
        verify(check, first)
        _move(first, output)


def publish_local(identifier: str, artifact: Artifact, check: Check, local: Path, output: Path) -> None:
    """Check a user's own copy and link to it; what needs another form is made from it without touching it.

    Raises:
        ContentError: if it is not there or its content is wrong.
        ArtifactError: if something else than an earlier link is in the way.
    """
    if not local.exists():
        raise ContentError(f"{local}: no such file or folder")
    source = artifact.source
    if isinstance(check, ImagesCheck) and isinstance(source, KaggleSource):
        _publish_images(check, source.split, local, output)
    elif isinstance(check, WeightsCheck) and not is_converted(check, local):
        _convert(identifier, artifact, check, local, output)
    elif isinstance(check, EncoderCheck):
        verify(check, local)
        # File by file: the folder is the workflow's own, and nothing may be written into the user's.
        for name in ENCODER_FILES:
            _link(local / name, output / name)
    else:
        verify(check, local)
        _link(local, output)


def _publish_images(check: ImagesCheck, split: imagenet.Split, given: Path, output: Path) -> None:
    """Make an ImageFolder of the competition's zip, of its extracted archive, or of an ImageFolder."""
    tree = given / imagenet.FOLDERS[split]
    if given.is_file():
        _replace(imagenet.extract(given, split, output, check), output)
    elif tree.is_dir() and split == "validation":
        _replace(imagenet.link_validation(given, output, check), output)
    else:
        images = tree if tree.is_dir() else given
        verify(check, images)
        _link(images, output)


def _convert(identifier: str, artifact: Artifact, check: WeightsCheck, source: Path, output: Path) -> None:
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
    if isinstance(check, EncoderCheck):
        missing = [name for name in ENCODER_FILES if not (path / name).is_file()]
        if missing:
            raise ContentError(f"{path}: expected a folder that holds {', '.join(ENCODER_FILES)}; lacks {missing[0]}")


def _verify_graph(check: GraphCheck, path: Path) -> None:
    """Look for the nodes' names; whether TensorFlow can use them is said where it does."""
    content = path.read_bytes()
    missing = [name for name in check.nodes if name.encode() not in content]
    if missing:
        raise ContentError(f"{path}: lacks the nodes {', '.join(missing)}; it is not the evaluator's graph, or cut off")


def _verify_arrays(check: ArraysCheck, path: Path) -> None:
    """Compare the shapes of an npz's arrays; only headers are read, and nothing is unpickled."""
    for name, shape in check.shapes.items():
        header = npz.read_header(path, name)
        if header.shape != shape or header.dtype.hasobject:
            raise ContentError(f"{path}: {name} is {header.dtype} {header.shape}, expected numbers {shape}")


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
