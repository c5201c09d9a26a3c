"""Files of Hugging Face repositories, through huggingface_hub: all of one commit."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import requests

from dsr.artifacts import transfer
from dsr.artifacts.manifest import OWN_COPY, Artifact, HubSource
from dsr.base.errors import UserError


def fetch(artifact: Artifact, source: HubSource, folder: Path, pinned: str | None) -> tuple[str, dict[str, str]]:
    """Download an artifact's files into ``folder``; complete files are kept, partial ones continued.

    Args:
        artifact: says which files, and where its licence is accepted.
        source: the repository.
        folder: where to.
        pinned: commit recorded at an earlier download; None resolves the source's revision.

    Returns:
        The hash of the commit, and the SHA-256 that the hub states of files in large-file storage.

    Raises:
        UserError: if they cannot be had.
    """
    denied = (
        f"The repository is private, gone or gated: see {artifact.terms}. If it asks for terms, accept them there; log "
        "in with `hf auth login` (or set HF_TOKEN)"
    )
    what = f"hub {source.repository}"
    revision = pinned or source.revision
    commit, stated = transfer.retrying(f"{what} at {revision}", denied, lambda: _resolve(source, revision))
    for file in artifact.files:
        transfer.retrying(f"{what}/{file.name}", denied, partial(_download, source, file.name, commit, folder))
    return commit, stated


def _resolve(source: HubSource, revision: str) -> tuple[str, dict[str, str]]:
    """Find the commit that a branch stands for: every file comes from it, whatever happens to the branch meanwhile."""
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        info = huggingface_hub.HfApi().model_info(
            source.repository, revision=revision, files_metadata=True, timeout=transfer.TIMEOUT[1]
        )
    except OfflineModeIsEnabled:
        raise UserError(f"hub {source.repository}: HF_HUB_OFFLINE is set; unset it, or {OWN_COPY}") from None
    except requests.JSONDecodeError:
        raise UserError(
            f"hub {source.repository}: the answer does not come from a Hugging Face hub. Check the proxy and "
            f"HF_ENDPOINT, or {OWN_COPY}"
        ) from None
    return str(info.sha), {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs}


def _download(source: HubSource, name: str, commit: str, folder: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        huggingface_hub.hf_hub_download(source.repository, name, revision=commit, local_dir=folder)
    except LocalEntryNotFoundError as error:
        # What the client makes of a hub that is busy: the reason is in the cause.
        if isinstance(error.__cause__, HfHubHTTPError):
            raise error.__cause__ from None
        raise transfer.TransientError("the hub does not answer") from error
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        # What hf_xet raises; those of requests have other types.
        raise transfer.TransientError(
            f"the transfer from the hub's Xet storage failed ({transfer.plain(error)}); HF_HUB_DISABLE_XET=1 in the "
            "environment does without that storage"
        ) from error
    except OSError as error:
        # The client's word for a size other than announced; it keeps the bytes for the next attempt.
        if "Consistency check failed" not in str(error):
            raise
        raise transfer.TransientError("the transfer ended early") from error
