"""Provide one artifact: from its source, or from the user's own copy."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dsr.artifacts import lock as locks
from dsr.artifacts import transfer
from dsr.artifacts.checks import Check, EncoderCheck
from dsr.artifacts.clients import drive, http, hub, kaggle
from dsr.artifacts.content import Content
from dsr.artifacts.errors import MANIFEST, OWN_COPY, ArtifactError, ContentError
from dsr.artifacts.manifest import PACKAGED, Artifact, DriveSource, HttpSource, HubSource, KaggleSource, load
from dsr.base.errors import first_problem
from dsr.config.base import Section
from dsr.config.specs import EncoderSpec

log = logging.getLogger(__name__)

DOWNLOADS = ".downloads"
"""Folder beside the outputs where downloads arrive, each source's in a folder of its own."""


def fetch(
    artifact: str,
    output: Path,
    lock: Path,
    local: Path | None = None,
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
        spec: JSON of what it is for: an EncoderSpec (encoders, statistics), an AutoencoderSpec (decoders), a
            ModelSpec (denoisers) or an ImageCount (images).
        manifest: Another manifest.

    Raises:
        ArtifactError: if it cannot be provided; nothing that was received is lost.
    """
    entry = load(manifest).get(artifact)
    content = Content(artifact, entry, _parse(entry.check, spec), output)
    job = _Job(content, lock)
    output.parent.mkdir(parents=True, exist_ok=True)
    with transfer.disk_errors(artifact, output.parent):
        if local is not None:
            advice = "give another one, or none to download it"
            with _advising(f"It is your own copy of '{artifact}' (`artifacts` in config.yaml): {advice}"):
                job.compare_unchanged(local)
                content.publish_local(local)
        elif content.exists():
            with _advising(f"{output} is there already: remove it and run again"):
                content.verify(output)
                job.compare_unchanged(output)
        else:
            job.download()
    log.info("%s: %s is complete", artifact, output)


@dataclass(frozen=True)
class _Job:
    """One artifact on its way to one place."""

    content: Content
    lock: Path

    def download(self) -> None:
        """Receive, compare with manifest and lock, publish, record: in this order, so that a failure repeats little."""
        identifier, artifact = self.content.identifier, self.content.artifact
        source = artifact.source
        _refuse_other_encoder(artifact, self.content.spec)
        # What another source sent is never taken for this one's. Both splits of a competition share one archive.
        name = source.competition if isinstance(source, KaggleSource) else identifier
        digest = hashlib.sha256(source.model_dump_json(exclude={"split"}).encode()).hexdigest()
        folder = self.content.output.parent / DOWNLOADS / f"{name}-{digest[:8]}"
        with locks.exclusive(folder.with_name(f"{folder.name}.guard")):
            folder.mkdir(exist_ok=True)
            commit = self._receive(folder)
            with _advising(f"The download is kept in {folder}: if it is damaged, delete it and run the command again"):
                places = {file.name: folder / file.name for file in artifact.files}
                measures = locks.measure(self.lock, identifier, artifact, places, commit.sha256 if commit else {})
                self.content.publish_download(folder)
            locks.record(self.lock, identifier, artifact, commit.revision if commit else None, measures)
            if isinstance(source, KaggleSource):
                log.info("%s holds the archive of both splits; remove it when you have those that you need", folder)
            else:
                shutil.rmtree(folder)

    def compare_unchanged(self, place: Path) -> None:
        """Compare what lies in ``place`` with manifest and lock, if it is in the publisher's own form."""
        artifact = self.content.artifact
        names = [file.name for file in artifact.files]
        places = {name: place if len(names) == 1 else place / name for name in names}
        if not self.content.is_converted(place) and all(path.is_file() for path in places.values()):
            locks.measure(self.lock, self.content.identifier, artifact, places, {})

    def _receive(self, folder: Path) -> hub.Commit | None:
        """Have the publisher's files in ``folder``; those that an earlier attempt completed are kept."""
        identifier, artifact = self.content.identifier, self.content.artifact
        source, first = artifact.source, folder / artifact.files[0].name
        log.info("%s: downloading from %s", identifier, artifact.page)
        if isinstance(source, HubSource):
            return hub.fetch(artifact, source, folder, locks.pinned_revision(self.lock, identifier, source))
        if not first.exists():
            match source:
                case DriveSource():
                    drive.fetch(artifact, source, first)
                case HttpSource():
                    http.fetch(source, first)
                case KaggleSource():
                    kaggle.fetch(artifact, source, first)
                case _:
                    raise ArtifactError(f"{identifier}: nobody publishes it; {OWN_COPY}")
        try:
            transfer.refuse_page(artifact.page, transfer.start_of(first))
        except ArtifactError:
            first.unlink()
            raise
        return None


@contextlib.contextmanager
def _advising(advice: str) -> Iterator[None]:
    """End messages about wrong content with what to do about it, which depends on whose it is."""
    try:
        yield
    except ContentError as error:
        raise ContentError(f"{error}. {advice}") from error


def _parse(check: Check, spec: str) -> Section:
    expected = check.specification or Section
    try:
        return expected.model_validate_json(spec)
    except ValidationError as error:
        raise ArtifactError(
            f"--spec: content of kind '{check.kind}' needs the JSON of {expected.__name__} ({first_problem(error)})"
        ) from None


def _refuse_other_encoder(artifact: Artifact, spec: Section) -> None:
    """Refuse, before anything is downloaded, an encoder that is not the configuration's."""
    source = artifact.source
    if isinstance(artifact.check, EncoderCheck) and isinstance(source, HubSource) and isinstance(spec, EncoderSpec):
        published, wanted = (source.repository, source.revision), (spec.encoder.hub, spec.encoder.revision)
        if published != wanted:
            raise ArtifactError(
                f"the manifest has {' at '.join(published)}, the configuration {' at '.join(wanted)}. Make config.yaml "
                f"and {MANIFEST} agree, or {OWN_COPY}"
            )
