"""Where artifacts come from: Hugging Face, Google Drive, Kaggle and plain HTTP with resume; and what all clients share:
bounded retries, HTTP statuses, web pages instead of files. The sites' own clients are imported where they are used."""

import contextlib
import html
import io
import itertools
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

import requests
from tqdm import tqdm
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from dsr.artifacts.manifest import MANIFEST, OWN_COPY, Artifact, DriveSource, HubSource, KaggleSource
from dsr.base import files
from dsr.base.errors import UserError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

TIMEOUT = (15.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes."""

_WORTH_RETRYING = frozenset({408, 425, 429, 500, 502, 503, 504})
_PAGE = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)

ATTEMPTS = 6
FIRST_WAIT = 2.0
"""Seconds before the second attempt; doubled before each further one."""
LONGEST_WAIT = 300.0
"""Seconds; a server that asks for a longer wait is taken at its word, and the command gives up."""

_OWN_IMAGES = "give an ImageFolder (`data` or `artifacts` in config.yaml)"


class TransientError(Exception):
    """A failure that is worth another attempt; never leaves this package."""


def download(
    url: str | Callable[[], str], target: Path, what: str, denied: str, headers: Mapping[str, str] | None = None
) -> None:
    """Download to ``target`` unless it is there, going on with what an earlier attempt received.

    Bytes arrive in `<target>.part`; `<target>.part.version` says which version of the remote file they belong to.

    Args:
        url: where from; what finds it is called before every attempt, and may raise what requests does.
        target: where to.
        what: what messages name.
        denied: what they advise where access is refused.
        headers: to send besides.

    Raises:
        UserError: if it cannot be had.
    """
    part = target.with_name(f"{target.name}.part")
    if not target.exists():
        retrying(what, denied, lambda: _attempt(url if isinstance(url, str) else url(), part, what, headers or {}))
        part.replace(target)


def _attempt(url: str, part: Path, what: str, headers: Mapping[str, str]) -> None:
    """Receive what is missing of ``part``."""
    version = part.with_name(f"{part.name}.version")
    known = version.read_text(encoding="utf-8") if version.exists() else ""
    have = part.stat().st_size if known and part.exists() else 0
    # If-Range: a file that changed since comes whole instead of being spliced onto old bytes.
    rest = {"Range": f"bytes={have}-", "If-Range": known} if have else {}
    asked = {**headers, "Accept-Encoding": "identity", **rest}
    with requests.get(url, headers=asked, stream=True, timeout=TIMEOUT) as response:
        place, _, total = response.headers.get("Content-Range", "").partition("/")
        is_rest = response.status_code == requests.codes.partial_content
        if response.status_code == requests.codes.requested_range_not_satisfiable or (
            is_rest and not place.startswith(f"bytes {have}-")
        ):
            part.unlink(missing_ok=True)
            raise TransientError("the server has no such rest of the file; starting over")
        response.raise_for_status()
        blocks = response.iter_content(1 << 20)
        first = next(blocks, b"")
        if not is_rest:
            refuse_page(what, first)
            # What tells this version of the remote file from another; weak tags do not.
            tag = response.headers.get("ETag", "")
            strong = "" if tag.startswith("W/") else tag
            files.write_text(version, strong or response.headers.get("Last-Modified", ""))
            total = response.headers.get("Content-Length", "")
        with part.open("ab" if is_rest else "wb") as stream:
            for block in tqdm(itertools.chain([first], blocks), unit=" MB", desc=part.stem, disable=None):
                stream.write(block)
    received = part.stat().st_size
    if total.isdigit() and received != int(total):
        raise TransientError(f"received {received} of {total} bytes")


def retrying(what: str, denied: str, action: Callable[[], Result]) -> Result:
    """Call ``action``, which uses requests, until it succeeds, waiting longer after every transient failure.

    It may raise TransientError to be called again; ``what`` and ``denied`` are those of :func:`download`.

    Raises:
        UserError: if no further attempt would help, after the last one, or if the server asks for a longer wait
            than is allowed.
    """
    for attempt in range(1, ATTEMPTS + 1):
        wait = FIRST_WAIT * 2 ** (attempt - 1)
        try:
            return action()
        except TransientError as error:
            reason = str(error)
        except requests.HTTPError as error:
            reason = f"the server answered HTTP {error.response.status_code}"
            wait = _wait_for(what, denied, error.response, wait)
        # An address of a proxy that is none is an InvalidURL.
        except (requests.exceptions.SSLError, requests.exceptions.ProxyError, requests.exceptions.InvalidURL) as error:
            names = ", ".join(name for name in os.environ if name.lower().endswith(("_proxy", "_ca_bundle")))
            raise UserError(
                f"{what}: {plain(error)}. Check this machine's proxy and certificates ({names or 'no variable'} set)"
            ) from error
        except requests.RequestException as error:
            reason = f"the connection failed ({plain(error)})"
        if wait > LONGEST_WAIT or attempt == ATTEMPTS:
            break
        log.warning("%s: %s; attempt %d of %d in %.1f s", what, reason, attempt + 1, ATTEMPTS, wait)
        time.sleep(wait)
    if wait > LONGEST_WAIT:
        ending = f"the server asks to wait {wait:.0f} s. Run the command again after that"
    else:
        ending = f"gave up after {attempt} attempts. Run the command again to go on from there"
    raise UserError(f"{what}: {reason}; {ending}: what has been received is kept")


def _wait_for(what: str, denied: str, response: requests.Response, wait: float) -> float:
    """Return how many seconds the server asks to wait, or ``wait``; refuse where waiting does not help."""
    status = response.status_code
    if status in _WORTH_RETRYING:
        with contextlib.suppress(KeyError, InvalidHeader):
            # A number or a date.
            wait = Retry().parse_retry_after(response.headers["Retry-After"])
        return wait
    if status in (401, 403):
        sent = "Authorization" in response.request.headers
        reason = "the token that was sent is refused" if sent and status == 401 else "access refused"
        raise UserError(f"{what}: {reason} (HTTP {status}). {denied}")
    if status in (404, 410):
        raise UserError(
            f"{what}: not there any more (HTTP {status}). Find where the publisher moved it and change "
            f"{MANIFEST}, or {OWN_COPY}"
        )
    raise UserError(f"{what}: the server answered HTTP {status}. Try again later, or {OWN_COPY}")


def refuse_page(what: str, start: bytes) -> None:
    """Refuse a web page that came instead of a file, of which ``start`` is the beginning, quoting its first words."""
    if _PAGE.match(start):
        text = re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>", " ", start.decode("utf-8", "replace"))
        words = " ".join(html.unescape(text).split())[:160]
        raise UserError(
            f'{what}: the server sent a web page instead of the file, saying: "{words}". Nothing of it was kept. Open '
            f"the source in a browser to see why, or {OWN_COPY}"
        )


def plain(text: object) -> str:
    """Return a message or address on one line, without the queries of addresses: signed ones open doors."""
    return re.sub(r"\?[^\s)'\"]+", "?...", " ".join(str(text).split()))


def hub(artifact: Artifact, source: HubSource, folder: Path, pinned: str | None) -> tuple[str, dict[str, str]]:
    """Download a repository's files, all of one commit, into ``folder``; what is there is kept or continued.

    The hub's own client would need a file system with locks.

    `commit` in the folder says what was begun there; otherwise the commit is that which is ``pinned`` by an earlier
    download, or that of the source's revision.

    Returns:
        The hash of the commit, and the SHA-256 that the hub states of files in large-file storage.
    """
    import huggingface_hub

    denied = (
        "Log in anew with `hf auth login` (or set HF_TOKEN; what is public needs no token), and accept the terms of "
        f"{artifact.terms} if it asks for that"
    )
    what, begun, inside = f"hub {source.repository}", folder / "commit", PurePosixPath(source.folder)
    revision = begun.read_text(encoding="utf-8") if begun.exists() else pinned or source.revision
    commit, stated = retrying(f"{what} at {revision}", denied, lambda: _resolve(what, source, revision))
    files.write_text(begun, commit)
    for name in artifact.files:
        url = huggingface_hub.hf_hub_url(source.repository, name, subfolder=source.folder, revision=commit)
        headers = huggingface_hub.utils.build_hf_headers()
        download(url, folder / name, f"{what}/{name}", denied, headers)
    return commit, {name: stated[path] for name in artifact.files if (path := str(inside / name)) in stated}


def _resolve(what: str, source: HubSource, revision: str) -> tuple[str, dict[str, str]]:
    """Find the commit that a branch stands for: every file comes from it, whatever happens to the branch meanwhile."""
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        info = huggingface_hub.HfApi().model_info(
            source.repository, revision=revision, files_metadata=True, timeout=TIMEOUT[1]
        )
    except OfflineModeIsEnabled:
        raise UserError(f"{what}: HF_HUB_OFFLINE is set; unset it, or {OWN_COPY}") from None
    except requests.JSONDecodeError:
        raise UserError(
            f"{what}: the answer does not come from a Hugging Face hub. Check the proxy and HF_ENDPOINT, or {OWN_COPY}"
        ) from None
    return str(info.sha), {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs}


def drive(artifact: Artifact, source: DriveSource, target: Path) -> None:
    """Download a file of a public folder to ``target``, going on with what an earlier attempt received."""
    what = f"Google Drive {source.path}"
    denied = f"The file is no longer shared with everyone: see {artifact.page}, or {OWN_COPY}"
    if not target.exists():
        identifier = retrying(what, denied, lambda: _find(artifact.page, source))
        retrying(what, denied, lambda: _download(what, identifier, target))


def _find(page: str, source: DriveSource) -> str:
    """Return the id of the file; Drive knows ids, people know paths."""
    import gdown

    try:
        found = gdown.download_folder(id=source.folder, quiet=True, skip_download=True, timeout=TIMEOUT)
    except gdown.exceptions.DownloadError as error:
        raise UserError(
            f"{page}: cannot be listed ({_line(error)}). Open it in a browser; if it has moved, change "
            f"{MANIFEST}, or {OWN_COPY}"
        ) from error
    listing = {str(PurePosixPath(file.path)): str(file.id) for file in found}
    if source.path not in listing:
        raise UserError(
            f"{page}: has no {source.path}, but {', '.join(listing) or 'no file at all'}. Change the path in "
            f"{MANIFEST}, or {OWN_COPY}"
        )
    return listing[source.path]


def _download(what: str, identifier: str, target: Path) -> None:
    import gdown

    # The client's progress bar is for people.
    quiet = not sys.stderr.isatty()
    try:
        gdown.download(id=identifier, output=str(target), quiet=quiet, resume=True, timeout=TIMEOUT)
    except gdown.exceptions.FileURLRetrievalError as error:
        raise UserError(
            f"{what}: Google Drive does not hand the file out ({_line(error)}). If too many users downloaded it "
            f"lately, run the command again in a day; or open https://drive.google.com/uc?id={identifier} in a "
            f"browser with an account, and {OWN_COPY}"
        ) from error
    except gdown.exceptions.DownloadError as error:
        if "byte range" in str(error):
            for part in target.parent.glob(f"{target.name}*.part"):
                part.unlink()
            raise TransientError("the server does not continue partial transfers; starting over") from error
        raise TransientError(_line(error)) from error
    with target.open("rb") as stream:
        start = stream.read(1 << 16)
    try:
        refuse_page(what, start)
    except UserError:
        target.unlink()
        raise


def _line(error: Exception) -> str:
    """Return the client's message on one line, without its advice on the command line that is not ours."""
    return " ".join(str(error).partition(".\nThe received bytes")[0].split())


def kaggle(artifact: Artifact, source: KaggleSource, target: Path) -> None:
    """Download the competition's archive to ``target``, going on with what an earlier attempt received."""
    what = f"Kaggle {source.competition}"
    advice = (
        "Make a token at https://www.kaggle.com/settings, save it as ~/.kaggle/access_token (or set KAGGLE_API_TOKEN) "
        f"and accept the rules at {artifact.terms} with its account, then run the command again; or {_OWN_IMAGES}"
    )
    download(lambda: _signed_address(what, source.competition, advice), target, what, advice)


def _signed_address(what: str, competition: str, advice: str) -> str:
    """Return where the client is sent for the archive; the client finds the user's token where it always looks."""
    # Importing the package, too, looks for a token, and prints advice if there is none.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            from kaggle.api.kaggle_api_extended import ApiDownloadDataFilesRequest, KaggleApi

            api = KaggleApi()
            api.authenticate()
        except ImportError:
            raise UserError(
                f"{what}: needs the kaggle client (Python 3.11 or later: `pip install kaggle==2.2.4`; "
                f"envs/workflow.yaml has it); or {_OWN_IMAGES}"
            ) from None
        except SystemExit:
            raise UserError(f"{what}: no valid token. {advice}") from None
        request = ApiDownloadDataFilesRequest()
        request.competition_name = competition
        # It follows the address, and receives nothing but the beginning.
        with api.build_kaggle_client() as client:
            response = client.competitions.competition_api_client.download_data_files(request)
            refuse_page(what, next(response.iter_content(1 << 16), b""))
            return str(response.url)
