"""Files below a public Google Drive folder, through gdown."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from dsr.artifacts import transfer
from dsr.artifacts.errors import MANIFEST, OWN_COPY, RefusedError, TransientError
from dsr.artifacts.manifest import DriveSource
from dsr.artifacts.transfer import Retries

log = logging.getLogger(__name__)

_TIMEOUT = (15.0, 60.0)
_QUOTA = "too many users have viewed or downloaded"


def fetch(source: DriveSource, target: Path, retries: Retries) -> Path:
    """Download a file to ``target``; a complete one is kept, a partial one continued.

    Raises:
        RefusedError, TransferError, DiskFullError: see :mod:`dsr.artifacts.errors`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        what = f"Google Drive {source.path}"
        identifier = transfer.retrying(what, lambda: _find(source), retries)
        log.info("Downloading %s of %s", source.path, source.page)
        transfer.retrying(what, lambda: _download(source, identifier, target), retries)
    return target


def _find(source: DriveSource) -> str:
    """Return the id of the file; Drive knows ids, people know paths."""
    import gdown
    from gdown.exceptions import DownloadError

    with transfer.network_errors(source.page):
        try:
            found = gdown.download_folder(id=source.folder, quiet=True, skip_download=True, timeout=_TIMEOUT)
        except DownloadError as error:
            raise RefusedError(
                f"{source.page}: cannot be listed ({_line(error)}). Open it in a browser; if it has moved, change "
                f"{MANIFEST}, or {OWN_COPY}"
            ) from error
    listing = {PurePosixPath(file.path): file.id for file in found}
    if PurePosixPath(source.path) not in listing:
        raise RefusedError(
            f"{source.page}: has no {source.path}, but {', '.join(map(str, listing)) or 'no file at all'}. Change the "
            f"path in {MANIFEST}, or {OWN_COPY}"
        )
    return str(listing[PurePosixPath(source.path)])


def _download(source: DriveSource, identifier: str, target: Path) -> None:
    import gdown
    from gdown.exceptions import DownloadError, FileURLRetrievalError

    what = f"Google Drive {source.path}"
    with (
        transfer.network_errors(what),
        tqdm(unit="B", unit_scale=True, desc=target.name, disable=None) as progress,
    ):

        def show(done: int, total: int | None) -> None:
            progress.total = total
            progress.update(done - progress.n)

        try:
            gdown.download(id=identifier, output=str(target), quiet=True, resume=True, timeout=_TIMEOUT, progress=show)
        except FileURLRetrievalError as error:
            raise RefusedError(_refusal(what, identifier, error)) from error
        except DownloadError as error:
            if "byte range" in str(error):
                for part in target.parent.glob(f"{target.name}*.part"):
                    part.unlink()
                raise TransientError("the server does not continue partial transfers; starting over") from error
            raise TransientError(_line(error)) from error
        except requests.exceptions.HTTPError as error:
            denied = f"The file is no longer shared with everyone: see {source.page}, or {OWN_COPY}"
            transfer.refuse_status(what, error.response.status_code, error.response.headers, denied=denied)
    _refuse_saved_page(what, target)


def _refusal(what: str, identifier: str, error: Exception) -> str:
    browser = f"https://drive.google.com/uc?id={identifier}"
    if _QUOTA in _line(error).lower():
        return (
            f"{what}: the file's download quota is used up (Google says that too many users downloaded it lately). "
            f"Run the command again in a day, or download {browser} in a browser with a Google account and "
            f"{OWN_COPY}"
        )
    return (
        f"{what}: Google Drive does not hand the file out ({_line(error)}). Open {browser} in a browser; if it works "
        f"there, {OWN_COPY}"
    )


def _refuse_saved_page(what: str, target: Path) -> None:
    with target.open("rb") as stream:
        start = stream.read(1 << 16)
    try:
        transfer.refuse_page(what, start)
    except RefusedError:
        target.unlink()
        raise


def _line(error: Exception) -> str:
    """Return the client's message on one line, without its advice on the command line that is not ours."""
    return " ".join(str(error).partition(".\nThe received bytes")[0].split())
