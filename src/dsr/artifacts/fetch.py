"""Provide one artifact: from its source, or from the user's own copy."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from dsr.artifacts import checks, content, lock, manifest, transfer
from dsr.artifacts.clients import drive, http, hub, kaggle
from dsr.artifacts.errors import MANIFEST, OWN_COPY, ArtifactError, ContentError, advising
from dsr.artifacts.guard import exclusive
from dsr.artifacts.manifest import Artifact, DriveSource, HttpSource, HubSource, KaggleSource
from dsr.artifacts.transfer import Retries
from dsr.config.specs import EncoderSpec, differing_keys

log = logging.getLogger(__name__)

DOWNLOADS = ".downloads"
"""Folder beside the outputs where downloads arrive; what is in it is complete or can be continued."""

_PATIENT = Retries()


def fetch(
    identifier: str,
    output: Path,
    *,
    locked: Path,
    local: Path | None = None,
    specification: str | None = None,
    listed: Path = manifest.PACKAGED,
    retries: Retries = _PATIENT,
) -> None:
    """Publish an artifact as ``output``, checked; one that is there already is checked and kept.

    Args:
        identifier: id in the manifest.
        output: file, or folder (encoders, images), to publish.
        locked: lock file.
        local: the user's own copy instead of a download; it is linked to, never changed or copied.
        specification: JSON of what the configuration needs the content to fit (see :func:`checks.adapted`).
        listed: the manifest.
        retries: how long to keep trying.

    Raises:
        ArtifactError: see :mod:`dsr.artifacts.errors`; nothing that was received is lost.
    """
    artifact = manifest.load(listed).get(identifier)
    check = checks.adapted(artifact.check, specification) if specification else artifact.check
    job = _Job(identifier, artifact, output, locked)
    output.parent.mkdir(parents=True, exist_ok=True)
    with transfer.disk_errors(identifier, output.parent):
        if local is not None:
            advice = "give another one, or none to download it"
            with advising(f"It is your own copy of '{identifier}' (`artifacts` in config.yaml): {advice}"):
                job.compare_unchanged(local)
                content.publish_local(identifier, artifact, check, local, output)
        elif content.exists(check, output):
            job.check_existing(check)
        else:
            _refuse_misfit(identifier, artifact, check, specification)
            job.download(retries)
    log.info("%s: %s is complete", identifier, output)


@dataclass(frozen=True)
class _Received:
    """Files as the publisher hands them out."""

    paths: dict[str, Path]
    """File of the manifest -> where it lies."""
    revision: str | None = None
    """Commit, where the source has commits."""
    sha256: dict[str, str] = field(default_factory=dict)
    """File -> hash that the publisher states."""


@dataclass(frozen=True)
class _Job:
    """One artifact on its way to one place."""

    identifier: str
    artifact: Artifact
    output: Path
    locked: Path

    def download(self, retries: Retries) -> None:
        """Receive, compare with manifest and lock, publish, record: in this order, so that a failure repeats little."""
        # Both splits of a competition share one archive.
        source = self.artifact.source
        key = source.competition if isinstance(source, KaggleSource) else self.identifier
        folder = self.output.parent / DOWNLOADS / key
        with exclusive(folder.with_name(f"{key}.guard")):
            received = self._receive(folder, retries)
            with advising(f"The download is kept in {folder}: if it is damaged, delete it and run the command again"):
                measures = self._compare(received.paths, received.sha256)
                content.publish_download(self.identifier, self.artifact, received.paths, self.output)
            lock.record(self.locked, self.identifier, self.artifact, received.revision, measures)
            if isinstance(source, KaggleSource):
                log.info("%s holds the archive of both splits; remove it when you have those that you need", folder)
            else:
                shutil.rmtree(folder)

    def check_existing(self, check: checks.Check) -> None:
        """Check what was published earlier."""
        try:
            content.verify(check, self.output)
            if not isinstance(check, content.CONVERTED):
                self.compare_unchanged(self.output)
        except ContentError as error:
            raise type(error)(f"{self.output} is there already, but wrong; remove it and run again. {error}") from error

    def compare_unchanged(self, place: Path) -> None:
        """Compare what lies in ``place`` with manifest and lock, if it is in the publisher's own form."""
        names = [file.name for file in self.artifact.files]
        paths = {name: place if len(names) == 1 else place / name for name in names}
        if content.is_converted(self.artifact.check, place) or not all(path.is_file() for path in paths.values()):
            return
        self._compare(paths, {})

    def _receive(self, folder: Path, retries: Retries) -> _Received:
        source, name = self.artifact.source, self.artifact.files[0].name
        if isinstance(source, HubSource):
            pinned = lock.pinned_revision(self.locked, self.identifier, source)
            files = hub.fetch(self.artifact, source, folder, pinned, retries)
            return _Received(files.paths, files.revision, files.sha256)
        if isinstance(source, DriveSource):
            return _Received({name: drive.fetch(source, folder / name, retries)})
        if isinstance(source, HttpSource):
            return _Received({name: http.fetch(source.url, folder / name, retries)})
        return _Received({name: kaggle.fetch(self.artifact, source, folder, retries)})

    def _compare(self, paths: dict[str, Path], stated: dict[str, str]) -> dict[str, lock.Measure]:
        """Measure files and compare them with what publisher, manifest and lock say."""
        measures = {name: lock.measure(path) for name, path in paths.items()}
        for name, sha256 in stated.items():
            if measures[name].sha256 != sha256:
                raise ContentError(
                    f"{self.identifier}: {paths[name]} has sha256 {measures[name].sha256}, its publisher states "
                    f"{sha256}: it was damaged on its way"
                )
        found = {name: (path, measures[name]) for name, path in paths.items()}
        lock.verify(self.locked, self.identifier, self.artifact, found)
        return measures


def _refuse_misfit(identifier: str, artifact: Artifact, check: checks.Check, specification: str | None) -> None:
    """Refuse, before anything is downloaded, published content that the configuration cannot use."""
    published, wanted = artifact.check.model_dump(), check.model_dump()
    source = artifact.source
    if specification and isinstance(check, checks.EncoderCheck) and isinstance(source, HubSource):
        encoder = checks.parse(EncoderSpec, specification).encoder
        published |= {"hub": source.repository, "revision": source.revision}
        wanted |= {"hub": encoder.hub, "revision": encoder.revision}
    differences = differing_keys(published, wanted)
    if differences:
        raise ArtifactError(
            f"{identifier}: what {source.page} publishes does not fit the configuration (published -> configuration): "
            f"{'; '.join(differences)}. Make config.yaml and {MANIFEST} agree, or {OWN_COPY}"
        )
