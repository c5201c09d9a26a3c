"""Plain HTTP with resume, and what every client shares: bounded retries, HTTP statuses, web pages instead of files."""

import contextlib
import html
import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import requests
from tqdm import tqdm
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from dsr.artifacts.manifest import MANIFEST, OWN_COPY
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
