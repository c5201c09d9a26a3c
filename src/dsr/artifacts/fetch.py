"""Provide one artifact: from its source, or from the user's own copy. What is loaded later is loaded once before."""

import contextlib
import errno
import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dsr.artifacts import clients, imagenet, transfer
from dsr.artifacts import lock as locks
from dsr.artifacts import manifest as manifests
from dsr.artifacts.manifest import MANIFEST, OWN_COPY, PACKAGED, DriveSource, HttpSource, HubSource, KaggleSource
from dsr.base import files
from dsr.base.errors import UserError, first_problem
from dsr.config.base import Alternative, Section
from dsr.config.encoders import ENCODER_FILES
from dsr.config.specs import EncoderSpec
from dsr.data import npz
from dsr.data.images import list_folder

log = logging.getLogger(__name__)


def fetch(
    artifact: str,
    output: Path,
    lock: Path,
    local: Path | None = None,
    source: Alternative | None = None,
    spec: str = "{}",
    manifest: Path = PACKAGED,
) -> None:
    """Fetch one artifact of the manifest, or check and link to your own copy of it.

    What is there already is checked and kept.

    Args:
        artifact: Id in the manifest.
        output: File, or folder (encoders, images), to publish.
        lock: File with sizes and hashes of the first downloads.
        local: Your own copy: checked and linked to instead of a download, never changed.
        source: The publisher to take it from instead: that of the artifact whose id goes on with `-` and this name.
        spec: JSON of what it is for: an EncoderSpec (encoders, statistics), an AutoencoderSpec (decoders), a
            ModelSpec (denoisers) or an ImageCount (images).
        manifest: Another manifest.

    Raises:
        UserError: if it cannot be provided; nothing that was received is lost.
    """
    known = manifests.load(manifest)
    artifact = f"{artifact}-{source}" if source else artifact
    known.refuse_unknown([artifact])
    entry = known.artifacts[artifact]
    recorded = locks.read(lock).artifacts.get(artifact)
    job = Job(artifact, entry, _parse(entry.check, spec), output, lock, recorded)
    output.parent.mkdir(parents=True, exist_ok=True)
    with files.naming(output):
        if local is not None:
            advice = "give another one, or none to download it"
            with _advising(f"It is your own copy of '{artifact}' (`artifacts` in config.yaml): {advice}"):
                job.measure(local)
                # File by file of an encoder: the folder is the workflow's own, nothing may be written into the user's.
                job.publish(local, _link)
        elif job.exists():
            with _advising(f"{output} is there already: remove it and run again"):
                job.verify(output)
                job.refuse_other(output)
                job.measure(output)
        else:
            job.download()
    log.info("%s: %s is complete", artifact, output)


@dataclass(frozen=True)
class Job:
    """One artifact on its way to one place."""

    identifier: str
    artifact: manifests.Artifact
    spec: Section
    """What it is for."""
    output: Path
    """File or folder to publish."""
    lock: Path
    recorded: locks.Entry | None

    def exists(self) -> bool:
        """Whether everything that would be published is there, whatever it holds."""
        if isinstance(self.artifact.check, manifests.EncoderCheck):
            return all((self.output / name).exists() for name in ENCODER_FILES)
        return any(self.output.iterdir()) if self.output.is_dir() else self.output.exists()

    def download(self) -> None:
        """Receive, compare with manifest and lock, publish, record: in this order, so that a failure repeats little."""
        source, spec = self.artifact.source, self.spec
        if source is None:
            raise UserError(f"{self.identifier}: nobody publishes it; {OWN_COPY}")
        if self.artifact.check.kind == "encoder" and isinstance(source, HubSource) and isinstance(spec, EncoderSpec):
            published, wanted = (source.repository, source.revision), (spec.encoder.hub, spec.encoder.revision)
            if published != wanted:
                raise UserError(
                    f"the manifest has {' at '.join(published)}, the configuration {' at '.join(wanted)}. Make "
                    f"config.yaml and {MANIFEST} agree, or {OWN_COPY}"
                )
        # Each source's in a folder of its own, beside the output; both splits of a competition share one archive.
        name = source.competition if isinstance(source, KaggleSource) else self.identifier
        key = source.model_dump_json(exclude={"split"}, exclude_defaults=True)
        digest = hashlib.sha256(key.encode()).hexdigest()
        folder = self.output.parent / ".downloads" / f"{name}-{digest[:8]}"
        with locks.exclusive(folder.with_name(f"{folder.name}.guard")):
            folder.mkdir(exist_ok=True)
            revision, stated = self._receive(folder)
            with _advising(f"The download is kept in {folder}: if it is damaged, delete it and run the command again"):
                given = folder if len(self.artifact.files) > 1 else folder / self.artifact.files[0]
                measures = self.measure(given, stated)
                self.publish(given, _move)
            locks.record(self.lock, self.identifier, source, revision, measures)
            if isinstance(source, KaggleSource):
                log.info("%s holds the archive of both splits; remove it when you have those that you need", folder)
            else:
                shutil.rmtree(folder)

    def _receive(self, folder: Path) -> tuple[str | None, dict[str, str]]:
        """Have the publisher's files in ``folder``; those that an earlier attempt completed are kept.

        Returns:
            The source's commit and the SHA-256 of files, as far as the publisher states them.
        """
        first = folder / self.artifact.files[0]
        log.info("%s: downloading from %s", self.identifier, self.artifact.page)
        match source := self.artifact.source:
            case HubSource():
                # The commit of the first download, unless the manifest names another source by now.
                pinned = self.recorded.revision if self.recorded and self.recorded.source == source else None
                return clients.hub(self.artifact, source, folder, pinned)
            case DriveSource():
                clients.drive(self.artifact, source, first)
            case HttpSource(url=url):
                denied = f"The address may have moved: check it in a browser, or {OWN_COPY}"
                transfer.download(url, first, transfer.plain(url), denied)
            case KaggleSource():
                clients.kaggle(self.artifact, source, first)
        return None, {}

    def measure(self, given: Path, stated: dict[str, str] | None = None) -> dict[str, locks.Measure]:
        """Measure what is in the publisher's own form, and compare it with what publisher and lock file say."""
        places = {name: given / name if given.is_dir() else given for name in self.artifact.files}
        # Of a copy of one's own, nothing may be known to compare it with.
        known = stated is not None or self.recorded
        if not known or self._is_converted(given) or not all(place.is_file() for place in places.values()):
            return {}
        return locks.measure(self.lock, self.identifier, places, self.recorded, stated or {})

    def verify(self, path: Path) -> None:
        """Check content in the form in which it is published."""
        check, spec = self.artifact.check, self.spec
        if isinstance(spec, manifests.ImageCount):
            list_folder(path, spec.images, spec.classes)
        elif isinstance(check, manifests.FileCheck):
            look_for_names(check, path)
        elif not isinstance(check, manifests.ImagesCheck):
            # Frameworks are imported where they are needed.
            from dsr.artifacts import weights

            weights.verify(check, spec, path)

    def refuse_other(self, path: Path) -> None:
        """Refuse what was made of another source's file, though it passes the check."""
        made = files.read_record(path).get("artifact") if self._is_converted(path) else None
        if made not in (None, self.identifier):
            raise UserError(f"{path}: made of '{made}', but '{self.identifier}' is asked for")

    def publish(self, given: Path, put: Callable[[Path, Path], None]) -> None:
        """Check what is given and ``put`` it in place; what needs another form is made from it without touching it."""
        check, spec, source = self.artifact.check, self.spec, self.artifact.source
        if not given.exists():
            raise UserError(f"{given}: no such file or folder")
        if given.is_dir() and isinstance(check, manifests.WeightsCheck | manifests.FileCheck):
            converted = ", or a .safetensors file made of it" if isinstance(check, manifests.WeightsCheck) else ""
            raise UserError(f"{given} is a folder, expected a file: {self.artifact.files[0]}{converted}")
        if isinstance(check, manifests.EncoderCheck):
            self.verify(given)
            # The configuration last: while it is missing, nobody takes the folder for complete.
            for name in sorted(ENCODER_FILES, key=lambda name: name == "config.json"):
                put(given / name, self.output / name)
        elif isinstance(check, manifests.FileCheck) or self._is_converted(given):
            self.verify(given)
            put(given, self.output)
        elif isinstance(check, manifests.WeightsCheck):
            from dsr.artifacts import weights

            about = {"artifact": self.identifier, "source": f"{self.artifact.page} {self.artifact.files[0]}"}
            weights.convert(check, spec, given, self.output, about | check.metadata)
        elif isinstance(source, KaggleSource) and isinstance(spec, manifests.ImageCount):
            tree = given / imagenet.FOLDERS[source.split]
            if given.is_file() or (tree.is_dir() and source.split == "validation"):
                _replace(imagenet.arrange(given, source.split, self.output, spec), self.output)
            else:
                images = tree if tree.is_dir() else given
                self.verify(images)
                _link(images, self.output)

    def _is_converted(self, path: Path) -> bool:
        """Whether ``path`` has the form in which the workflow uses it, and its publisher hands out another."""
        return isinstance(self.artifact.check, manifests.WeightsCheck) and path.suffix == ".safetensors"


def look_for_names(check: manifests.FileCheck, path: Path) -> None:
    """Refuse a file that is another one; nothing is unpickled, and no framework is needed."""
    if check.kind == "arrays":
        missing = sorted(set(check.names).difference(npz.keys(path)))
    else:
        content = path.read_bytes()
        missing = [name for name in check.names if name.encode() not in content]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; it is another file than expected, or cut off")


@contextlib.contextmanager
def _advising(advice: str) -> Iterator[None]:
    """End messages about wrong content with what to do about it, which depends on whose it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}. {advice}") from error


def _parse(check: manifests.Check, spec: str) -> Section:
    expected = manifests.SPECIFICATIONS.get(check.kind, Section)
    try:
        return expected.model_validate_json(spec)
    except ValidationError as error:
        raise UserError(
            f"--spec: content of kind '{check.kind}' needs the JSON of {expected.__name__} ({first_problem(error)})"
        ) from None


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
        raise FileExistsError(errno.EEXIST, "is in the way and will not be overwritten", str(output))
    made.replace(output)
