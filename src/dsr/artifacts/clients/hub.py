"""Files of Hugging Face repositories, through huggingface_hub: all of one commit."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dsr.artifacts import transfer
from dsr.artifacts.errors import MANIFEST, OWN_COPY, ContentError, RefusedError, TransientError
from dsr.artifacts.manifest import Artifact, HubSource
from dsr.artifacts.transfer import Retries

if TYPE_CHECKING:
    from requests import Response

log = logging.getLogger(__name__)


@dataclass
class HubFiles:
    """Downloaded files and the commit that they belong to."""

    revision: str
    """Commit; the manifest's revision until the hub has resolved it."""
    paths: dict[str, Path] = field(default_factory=dict)
    """File -> where it lies."""
    sha256: dict[str, str] = field(default_factory=dict)
    """File -> SHA-256 that the hub states; only files in large-file storage have one."""


def fetch(artifact: Artifact, source: HubSource, folder: Path, pinned: str | None, retries: Retries) -> HubFiles:
    """Download an artifact's files into ``folder``; complete files are kept, partial ones continued.

    Args:
        artifact: says which files, and where its licence is accepted.
        source: the repository.
        folder: where to.
        pinned: commit recorded at an earlier download; None resolves the source's revision.
        retries: how long to keep trying.

    Raises:
        RefusedError, TransferError, ContentError: see :mod:`dsr.artifacts.errors`.
    """
    received = HubFiles(pinned or source.revision)
    for file in artifact.files:
        log.info("Downloading %s of %s at %s", file.name, source.repository, received.revision)
        client = _File(artifact, source, file.name, received.revision)
        metadata = transfer.retrying(client.what, client.metadata, retries)
        # Every further file comes from the commit of the first, whatever happens to the branch meanwhile.
        received.revision = client.revision = str(metadata.commit_hash)
        if re.fullmatch(r"[0-9a-f]{64}", metadata.etag):
            received.sha256[file.name] = metadata.etag
        received.paths[file.name] = transfer.retrying(client.what, partial(client.download, folder), retries)
    return received


@dataclass
class _File:
    """One file of a repository."""

    artifact: Artifact
    source: HubSource
    name: str
    revision: str

    @property
    def what(self) -> str:
        return f"hub {self.source.repository}/{self.name}"

    def metadata(self) -> Any:
        """Ask the hub for commit, tag and size."""
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        url = huggingface_hub.hf_hub_url(self.source.repository, self.name, revision=self.revision)
        with transfer.network_errors(url):
            try:
                metadata = huggingface_hub.get_hf_file_metadata(url, timeout=30)
            except OfflineModeIsEnabled:
                raise RefusedError(f"{self.what}: HF_HUB_OFFLINE is set; unset it, or {OWN_COPY}") from None
            except HfHubHTTPError as error:
                self._refuse(error.response)
        if metadata.commit_hash is None or metadata.etag is None:
            raise ContentError(
                f"{url}: the answer does not come from a Hugging Face hub. Check the proxy and HF_ENDPOINT, "
                f"or {OWN_COPY}"
            )
        return metadata

    def download(self, folder: Path) -> Path:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        with transfer.network_errors(self.what):
            try:
                path = huggingface_hub.hf_hub_download(
                    self.source.repository, self.name, revision=self.revision, local_dir=folder
                )
            except LocalEntryNotFoundError as error:
                # What the client makes of a hub that is busy: the reason is in the cause.
                if isinstance(error.__cause__, HfHubHTTPError):
                    self._refuse(error.__cause__.response)
                raise TransientError("the hub does not answer") from error
            except HfHubHTTPError as error:
                if error.response.status_code == 416:
                    shutil.rmtree(folder / ".cache", ignore_errors=True)
                    raise TransientError("the partial file does not fit the one on the hub; starting over") from error
                self._refuse(error.response)
            except (ConnectionError, TimeoutError, RuntimeError) as error:
                # What hf_xet raises; those of requests have other types.
                raise TransientError(
                    f"the transfer from the hub's Xet storage failed ({transfer.plain(error)}); HF_HUB_DISABLE_XET=1 "
                    "in the environment does without that storage"
                ) from error
            except OSError as error:
                # The client's word for a size other than announced; it keeps the bytes for the next attempt.
                if "Consistency check failed" not in str(error):
                    raise
                raise TransientError("the transfer ended early") from error
        return Path(path)

    def _refuse(self, response: Response) -> NoReturn:
        """Say what an error status of the hub means."""
        code = response.headers.get("X-Error-Code", "")
        terms = self.artifact.licence.accept or self.source.page
        if code == "GatedRepo":
            raise RefusedError(
                f"{self.what}: the licence has not been accepted with your account. Accept it at {terms}, log in with "
                "`hf auth login` (or set HF_TOKEN), and run the command again"
            )
        if code in ("RevisionNotFound", "EntryNotFound"):
            missing = f"revision '{self.revision}'" if code == "RevisionNotFound" else "file"
            raise RefusedError(
                f"{self.what}: no such {missing} in the repository. See {self.source.page} and change "
                f"{MANIFEST}, or {OWN_COPY}"
            )
        denied = (
            f"The repository is private, gone or gated: see {terms}. If it asks for terms, accept them there; log in "
            "with `hf auth login` (or set HF_TOKEN)"
        )
        transfer.refuse_status(self.what, response.status_code, response.headers, denied=denied)
