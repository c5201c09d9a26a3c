"""What every client shares: bounded retries, HTTP statuses, web pages instead of files."""

from __future__ import annotations

import contextlib
import html
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from dsr.artifacts.manifest import MANIFEST, OWN_COPY
from dsr.base.errors import UserError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

TIMEOUT = (15.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes."""

_WORTH_RETRYING = frozenset({408, 425, 429, 500, 502, 503, 504})
_PAGE = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)


ATTEMPTS = 6
"""Attempts in all."""
FIRST_WAIT = 2.0
"""Seconds before the second attempt; doubled before each further one."""
LONGEST_WAIT = 300.0
"""Seconds; a server that asks for a longer wait is taken at its word, and the command gives up."""


class TransientError(Exception):
    """A failure that is worth another attempt; never leaves this package.

    Attributes:
        retry_after: seconds that the server asks to wait, if it does.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def retrying(what: str, denied: str, action: Callable[[], Result]) -> Result:
    """Call ``action``, which uses requests, until it succeeds, waiting longer after every transient failure.

    Args:
        what: what messages name.
        denied: what to do where access is refused.
        action: may raise TransientError to be called again.

    Raises:
        UserError: if no further attempt would help, after the last one, or if the server asks for a longer wait
            than is allowed.
    """
    attempt = 1
    while True:
        try:
            with _errors_of_requests(what, denied):
                return action()
        except TransientError as error:
            wait = FIRST_WAIT * 2 ** (attempt - 1) if error.retry_after is None else error.retry_after
            if wait > LONGEST_WAIT:
                ending = f"the server asks to wait {wait:.0f} s. Run the command again after that"
            elif attempt == ATTEMPTS:
                ending = f"gave up after {attempt} attempts. Run the command again to go on from there"
            else:
                log.warning("%s: %s; attempt %d of %d in %.1f s", what, error, attempt + 1, ATTEMPTS, wait)
                time.sleep(wait)
                attempt += 1
                continue
            raise UserError(f"{what}: {error}; {ending}: what has been received is kept") from error


def refuse_page(what: str, start: bytes) -> None:
    """Refuse a web page that came instead of a file; ``start`` is the beginning of the content.

    Raises:
        UserError: quoting the page's first words.
    """
    if _PAGE.match(start):
        text = re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>", " ", start.decode("utf-8", "replace"))
        words = " ".join(html.unescape(text).split())[:160]
        raise UserError(
            f'{what}: the server sent a web page instead of the file, saying: "{words}". Nothing of it was kept. Open '
            f"the source in a browser to see why, or {OWN_COPY}"
        )


def start_of(path: Path) -> bytes:
    """Return what :func:`refuse_page` looks at."""
    with path.open("rb") as stream:
        return stream.read(1 << 16)


def plain(text: object) -> str:
    """Return a message or address on one line, without the queries of addresses: signed ones open doors."""
    return re.sub(r"\?[^\s)'\"]+", "?...", " ".join(str(text).split()))


@contextlib.contextmanager
def _errors_of_requests(what: str, denied: str) -> Iterator[None]:
    try:
        yield
    except requests.HTTPError as error:
        _refuse_status(what, denied, error.response)
    # An address of a proxy that is none is a ValueError.
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError, requests.exceptions.InvalidURL) as error:
        raise UserError(f"{what}: {plain(error)}. Check the proxy and certificate settings of this machine") from error
    except requests.RequestException as error:
        raise TransientError(f"the connection failed ({plain(error)})") from error


def _refuse_status(what: str, denied: str, response: requests.Response) -> NoReturn:
    status = response.status_code
    if status in _WORTH_RETRYING:
        wait = None
        with contextlib.suppress(KeyError, InvalidHeader):
            # A number or a date.
            wait = Retry().parse_retry_after(response.headers["Retry-After"])
        raise TransientError(f"the server answered HTTP {status}", wait)
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
