"""Provide one artifact: from its source, or from the user's own copy."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dsr.artifacts import checks, content, transfer
from dsr.artifacts import lock as locks
from dsr.artifacts.clients import drive, http, hub, kaggle
from dsr.artifacts.errors import MANIFEST, OWN_COPY, ArtifactError, ContentError
from dsr.artifacts.manifest import PACKAGED, Artifact, DriveSource, HttpSource, HubSource, KaggleSource, load
from dsr.config.specs import EncoderSpec, differing_keys

log = logging.getLogger(__name__)

DOWNLOADS = ".downloads"
"""Folder beside the outputs where downloads arrive, each source's in a folder of its own."""


def fetch(
    artifact: str,
    output: Path,
    lock: Path,
    local: Path | None = None,
    spec: str | None = None,
    manifest: Path = PACKAGED,
) -> None:
    """Fetch one artifact of the manifest, or check and link to your own copy of it.

    What is there already is checked and kept.

    Args:
        artifact: Id in the manifest.
        output: File, or folder (encoders, images), to publish.
        lock: File with sizes and hashes of the first downloads.
        local: Your own copy: checked and linked to instead of a download, never changed.
        spec: JSON of an EncoderSpec, AutoencoderSpec, ModelSpec or ImageCount: what it is for.
        manifest: Another manifest.

    Raises:
        ArtifactError: if it cannot be provided; nothing that was received is lost.
    """
    entry = load(manifest).get(artifact)
    check = checks.adapted(entry.check, spec) if spec else entry.check
    job = _Job(artifact, entry, output, lock)
    output.parent.mkdir(parents=True, exist_ok=True)
    with transfer.disk_errors(artifact, output.parent):
        if local is not None:
            advice = "give another one, or none to download it"
            with _advising(f"It is your own copy of '{artifact}' (`artifacts` in config.yaml): {advice}"):
                job.compare_unchanged(local)
                content.publish_local(artifact, entry, check, local, output)
        elif content.exists(check, output):
            with _advising(f"{output} is there already, but wrong: remove it and run again"):
                content.verify(check, output)
                job.compare_unchanged(output)
        else:
            _refuse_misfit(artifact, entry, check, spec)
            job.download()
    log.info("%s: %s is complete", artifact, output)


@dataclass(frozen=True)
class _Job:
    """One artifact on its way to one place."""

    identifier: str
    artifact: Artifact
    output: Path
    lock: Path

    def download(self) -> None:
        """Receive, compare with manifest and lock, publish, record: in this order, so that a failure repeats little."""
        source = self.artifact.source
        # What another source sent is never taken for this one's. Both splits of a competition share one archive.
        name = source.competition if isinstance(source, KaggleSource) else self.identifier
        digest = hashlib.sha256(source.model_dump_json(exclude={"split"}).encode()).hexdigest()
        folder = self.output.parent / DOWNLOADS / f"{name}-{digest[:8]}"
        with locks.exclusive(folder.with_name(f"{folder.name}.guard")):
            folder.mkdir(exist_ok=True)
            commit = self._receive(folder)
            with _advising(f"The download is kept in {folder}: if it is damaged, delete it and run the command again"):
                measures = self._compare(folder, commit.sha256 if commit else {})
                content.publish_download(self.identifier, self.artifact, folder, self.output)
            locks.record(self.lock, self.identifier, self.artifact, commit.revision if commit else None, measures)
            if isinstance(source, KaggleSource):
                log.info("%s holds the archive of both splits; remove it when you have those that you need", folder)
            else:
                shutil.rmtree(folder)

    def compare_unchanged(self, place: Path) -> None:
        """Compare what lies in ``place`` with manifest and lock, if it is in the publisher's own form."""
        if content.is_converted(self.artifact.check, place):
            return
        names = [file.name for file in self.artifact.files]
        if len(names) > 1 and all((place / name).is_file() for name in names):
            self._compare(place, {})
        elif len(names) == 1 and place.is_file():
            measures = {names[0]: locks.measure(place)}
            locks.verify(self.lock, self.identifier, self.artifact, place.parent, measures)

    def _receive(self, folder: Path) -> hub.Commit | None:
        """Have the publisher's files in ``folder``; those that an earlier attempt completed are kept."""
        source, first = self.artifact.source, folder / self.artifact.files[0].name
        log.info("%s: downloading from %s", self.identifier, source.page)
        if isinstance(source, HubSource):
            pinned = locks.pinned_revision(self.lock, self.identifier, source)
            return hub.fetch(self.artifact, source, folder, pinned)
        if not first.exists():
            match source:
                case DriveSource():
                    drive.fetch(source, first)
                case HttpSource():
                    http.fetch(source, first)
                case KaggleSource():
                    kaggle.fetch(self.artifact, source, first)
        try:
            transfer.refuse_page(source.page, transfer.start_of(first))
        except ArtifactError:
            first.unlink()
            raise
        return None

    def _compare(self, folder: Path, stated: dict[str, str]) -> dict[str, locks.Measure]:
        """Measure files and compare them with what publisher, manifest and lock say."""
        measures = {file.name: locks.measure(folder / file.name) for file in self.artifact.files}
        for name, measure in measures.items():
            if measure.sha256 != stated.get(name, measure.sha256):
                raise ContentError(
                    f"{self.identifier}: {folder / name} has sha256 {measure.sha256}, its publisher states "
                    f"{stated[name]}: it was damaged on its way"
                )
        locks.verify(self.lock, self.identifier, self.artifact, folder, measures)
        return measures


@contextlib.contextmanager
def _advising(advice: str) -> Iterator[None]:
    """End messages about wrong content with what to do about it, which depends on whose it is."""
    try:
        yield
    except ContentError as error:
        raise ContentError(f"{error}. {advice}") from error


def _refuse_misfit(identifier: str, artifact: Artifact, check: checks.Check, spec: str | None) -> None:
    """Refuse, before anything is downloaded, published content that the configuration cannot use."""
    published, wanted = artifact.check.model_dump(), check.model_dump()
    source = artifact.source
    if spec and isinstance(check, checks.EncoderCheck) and isinstance(source, HubSource):
        encoder = EncoderSpec.model_validate_json(spec).encoder
        published |= {"hub": source.repository, "revision": source.revision}
        wanted |= {"hub": encoder.hub, "revision": encoder.revision}
    differences = differing_keys(published, wanted)
    if differences:
        raise ArtifactError(
            f"{identifier}: what {source.page} publishes does not fit the configuration (published -> configuration): "
            f"{'; '.join(differences)}. Make config.yaml and {MANIFEST} agree, or {OWN_COPY}"
        )
