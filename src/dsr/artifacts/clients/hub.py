"""Files of Hugging Face repositories, through huggingface_hub: all of one commit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import requests

from dsr.artifacts import transfer
from dsr.artifacts.errors import MANIFEST, OWN_COPY, ArtifactError, ContentError, TransientError
from dsr.artifacts.manifest import Artifact, HubSource


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    revision: str
    """Hash of the commit."""
    sha256: dict[str, str]
    """File -> SHA-256 that the hub states; only files in large-file storage have one."""


def fetch(artifact: Artifact, source: HubSource, folder: Path, pinned: str | None) -> Commit:
    """Download an artifact's files into ``folder``; complete files are kept, partial ones continued.

    Args:
        artifact: says which files, and where its licence is accepted.
        source: the repository.
        folder: where to.
        pinned: commit recorded at an earlier download; None resolves the source's revision.

    Raises:
        ArtifactError: if they cannot be had.
    """
    denied = (
        f"The repository is private, gone or gated: see {artifact.terms}. If it asks for terms, accept them there; log "
        "in with `hf auth login` (or set HF_TOKEN)"
    )
    what = f"hub {source.repository}"
    commit = transfer.retrying(what, denied, lambda: _resolve(artifact, source, pinned or source.revision))
    for file in artifact.files:
        download = partial(_download, artifact, source, file.name, commit, folder)
        transfer.retrying(f"{what}/{file.name}", denied, download)
    return commit


def _resolve(artifact: Artifact, source: HubSource, revision: str) -> Commit:
    """Find the commit that a branch stands for: every file comes from it, whatever happens to the branch meanwhile."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        info = huggingface_hub.HfApi().model_info(
            source.repository, revision=revision, files_metadata=True, timeout=transfer.TIMEOUT[1]
        )
    except OfflineModeIsEnabled:
        raise ArtifactError(f"hub {source.repository}: HF_HUB_OFFLINE is set; unset it, or {OWN_COPY}") from None
    except requests.JSONDecodeError:
        raise ContentError(
            f"hub {source.repository}: the answer does not come from a Hugging Face hub. Check the proxy and "
            f"HF_ENDPOINT, or {OWN_COPY}"
        ) from None
    except HfHubHTTPError as error:
        _explain(error, artifact, revision)
    return Commit(str(info.sha), {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs})


def _download(artifact: Artifact, source: HubSource, name: str, commit: Commit, folder: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        huggingface_hub.hf_hub_download(source.repository, name, revision=commit.revision, local_dir=folder)
    except LocalEntryNotFoundError as error:
        # What the client makes of a hub that is busy: the reason is in the cause.
        if isinstance(error.__cause__, HfHubHTTPError):
            _explain(error.__cause__, artifact, name)
        raise TransientError("the hub does not answer") from error
    except HfHubHTTPError as error:
        _explain(error, artifact, name)
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        # What hf_xet raises; those of requests have other types.
        raise TransientError(
            f"the transfer from the hub's Xet storage failed ({transfer.plain(error)}); HF_HUB_DISABLE_XET=1 in the "
            "environment does without that storage"
        ) from error
    except OSError as error:
        # The client's word for a size other than announced; it keeps the bytes for the next attempt.
        if "Consistency check failed" not in str(error):
            raise
        raise TransientError("the transfer ended early") from error


def _explain(error: requests.HTTPError, artifact: Artifact, missing: str) -> NoReturn:
    """Say what the hub's own codes mean; other statuses are left as they are."""
    code = error.response.headers.get("X-Error-Code", "")
    if code == "GatedRepo":
        raise ArtifactError(
            f"{artifact.page}: the licence has not been accepted with your account. Accept it at {artifact.terms}, log "
            "in with `hf auth login` (or set HF_TOKEN), and run the command again"
        ) from error
    if code in ("RevisionNotFound", "EntryNotFound"):
        raise ArtifactError(
            f"{artifact.page}: the repository has no '{missing}'. Look there and change {MANIFEST}, or {OWN_COPY}"
        ) from error
    raise error
