"""Files below a public Google Drive folder, through gdown."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath

from dsr.artifacts import transfer
from dsr.artifacts.manifest import MANIFEST, OWN_COPY, Artifact, DriveSource
from dsr.base.errors import UserError


def fetch(artifact: Artifact, source: DriveSource, target: Path) -> None:
    """Download to ``target``, going on with what an earlier attempt received.

    Raises:
        UserError: if it cannot be had.
    """
    what = f"Google Drive {source.path}"
    denied = f"The file is no longer shared with everyone: see {artifact.page}, or {OWN_COPY}"
    identifier = transfer.retrying(what, denied, lambda: _find(artifact.page, source))
    transfer.retrying(what, denied, lambda: _download(what, identifier, target))


def _find(page: str, source: DriveSource) -> str:
    """Return the id of the file; Drive knows ids, people know paths."""
    import gdown
    from gdown.exceptions import DownloadError

    try:
        found = gdown.download_folder(id=source.folder, quiet=True, skip_download=True, timeout=transfer.TIMEOUT)
    except DownloadError as error:
        raise UserError(
            f"{page}: cannot be listed ({_line(error)}). Open it in a browser; if it has moved, change "
            f"{MANIFEST}, or {OWN_COPY}"
        ) from error
    listing = {PurePosixPath(file.path): file.id for file in found}
    if PurePosixPath(source.path) not in listing:
        raise UserError(
            f"{page}: has no {source.path}, but {', '.join(map(str, listing)) or 'no file at all'}. Change the "
            f"path in {MANIFEST}, or {OWN_COPY}"
        )
    return str(listing[PurePosixPath(source.path)])


def _download(what: str, identifier: str, target: Path) -> None:
    import gdown
    from gdown.exceptions import DownloadError, FileURLRetrievalError

    browser = f"https://drive.google.com/uc?id={identifier}"
    # The client's progress bar is for people.
    quiet = not sys.stderr.isatty()
    try:
        gdown.download(id=identifier, output=str(target), quiet=quiet, resume=True, timeout=transfer.TIMEOUT)
    except FileURLRetrievalError as error:
        raise UserError(
            f"{what}: Google Drive does not hand the file out ({_line(error)}). If too many users downloaded it "
            f"lately, run the command again in a day; or open {browser} in a browser with an account, and {OWN_COPY}"
        ) from error
    except DownloadError as error:
        if "byte range" in str(error):
            for part in target.parent.glob(f"{target.name}*.part"):
                part.unlink()
            raise transfer.TransientError("the server does not continue partial transfers; starting over") from error
        raise transfer.TransientError(_line(error)) from error


def _line(error: Exception) -> str:
    """Return the client's message on one line, without its advice on the command line that is not ours."""
    return " ".join(str(error).partition(".\nThe received bytes")[0].split())
