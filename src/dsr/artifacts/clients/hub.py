"""Files of Hugging Face repositories: all of one commit, which the hub's client finds."""

from __future__ import annotations

from pathlib import Path

import requests

from dsr.artifacts import transfer
from dsr.artifacts.clients import http
from dsr.artifacts.manifest import OWN_COPY, Artifact, HubSource
from dsr.base import files
from dsr.base.errors import UserError


def fetch(artifact: Artifact, source: HubSource, folder: Path, pinned: str | None) -> tuple[str, dict[str, str]]:
    """Download an artifact's files into ``folder``; complete files are kept, partial ones continued.

    The hub's own client would need a file system with locks.

    Args:
        artifact: says which files, and where its licence is accepted.
        source: the repository.
        folder: where to; `commit` in it says what was begun there.
        pinned: commit recorded at an earlier download; None resolves the source's revision.

    Returns:
        The hash of the commit, and the SHA-256 that the hub states of files in large-file storage.

    Raises:
        UserError: if they cannot be had.
    """
    import huggingface_hub

    denied = (
        "Log in anew with `hf auth login` (or set HF_TOKEN; what is public needs no token), and accept the terms of "
        f"{artifact.terms} if it asks for that"
    )
    what, begun = f"hub {source.repository}", folder / "commit"
    revision = begun.read_text(encoding="utf-8") if begun.exists() else pinned or source.revision
    commit, stated = transfer.retrying(f"{what} at {revision}", denied, lambda: _resolve(source, revision))
    files.write_text(begun, commit)
    for name in (file.name for file in artifact.files):
        url = huggingface_hub.hf_hub_url(source.repository, name, revision=commit)
        http.fetch(url, folder / name, f"{what}/{name}", denied, huggingface_hub.utils.build_hf_headers())
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
