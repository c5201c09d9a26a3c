"""What every client shares: bounded retries, HTTP statuses, web pages instead of files, full disks."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import html
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn, TypeVar

import requests

from dsr.artifacts.errors import MANIFEST, OWN_COPY, DiskFullError, RefusedError, TransferError, TransientError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_WORTH_RETRYING = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PAGE = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Retries:
    """How long to keep trying."""

    attempts: int = 6
    """Attempts in all."""
    first: float = 2.0
    """Seconds before the second attempt; doubled before each further one."""
    longest: float = 300.0
    """Longest wait in seconds; a server that asks for more is taken at its word, and the command gives up."""


def retrying(what: str, action: Callable[[], Result], retries: Retries) -> Result:
    """Call ``action`` until it succeeds, waiting longer after every transient failure.

    Raises:
        TransferError: after the last attempt, or if the server asks for a longer wait than is allowed.
    """
    attempt = 1
    while True:
        try:
            return action()
        except TransientError as error:
            wait = min(retries.first * 2 ** (attempt - 1), retries.longest)
            if error.retry_after is not None:
                wait = error.retry_after
            if wait > retries.longest:
                raise TransferError(
                    f"{what}: {error}; the server asks to wait {wait:.0f} s. Run the command again after that; "
                    "what has been received is kept"
                ) from error
            if attempt == retries.attempts:
                raise TransferError(
                    f"{what}: {error}; gave up after {attempt} attempts. What has been received is kept: "
                    "run the command again to go on from there"
                ) from error
            log.warning("%s: %s; attempt %d of %d in %.1f s", what, error, attempt + 1, retries.attempts, wait)
            time.sleep(wait)
            attempt += 1


def refuse_status(what: str, status: int, headers: Mapping[str, str], *, denied: str) -> NoReturn:
    """Turn an HTTP error status into an exception; ``denied`` says what to do where access is refused.

    Raises:
        TransientError: if another attempt may help (the server is busy or broken).
        RefusedError: otherwise.
    """
    if status in _WORTH_RETRYING:
        raise TransientError(f"the server answered HTTP {status}", _retry_after(headers.get("Retry-After")))
    if status in (401, 403):
        raise RefusedError(f"{what}: access refused (HTTP {status}). {denied}")
    if status in (404, 410):
        raise RefusedError(
            f"{what}: not there any more (HTTP {status}). Find where the publisher moved it and change "
            f"{MANIFEST}, or {OWN_COPY}"
        )
    raise RefusedError(f"{what}: the server answered HTTP {status}. Try again later, or {OWN_COPY}")


def refuse_page(what: str, start: bytes) -> None:
    """Refuse a web page that came instead of a file; ``start`` is the beginning of the content.

    Raises:
        RefusedError: quoting the page's title or first words.
    """
    if _PAGE.match(start):
        raise RefusedError(
            f'{what}: the server sent a web page instead of the file, saying: "{page_text(start)}". '
            f"Nothing of it was kept. Open the source in a browser to see why, or {OWN_COPY}"
        )


def page_text(page: bytes, length: int = 160) -> str:
    """Return the readable beginning of a web page on one line."""
    text = re.sub(r"(?is)<(script|style)\b.*?(</\1>|$)", " ", page.decode("utf-8", "replace"))
    words = html.unescape(re.sub(r"(?s)<[^>]*(>|$)", " ", text)).split()
    line = " ".join(words) or "an empty page"
    return line if len(line) <= length else line[: length - 3] + "..."


def plain(text: object) -> str:
    """Return a message or address on one line, without the queries of addresses: signed ones open doors."""
    return re.sub(r"\?[^\s)'\"]+", "?...", " ".join(str(text).split()))


@contextlib.contextmanager
def network_errors(what: str) -> Iterator[None]:
    """Turn the exceptions of requests into this package's.

    Raises:
        TransientError: for dropped connections and time-outs.
        TransferError: for certificates, proxies and addresses that no further attempt will mend.
    """
    try:
        yield
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise TransferError(
            f"{what}: {plain(error)}. Check the proxy and certificate settings of this machine"
        ) from error
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
    ) as error:
        raise TransientError(f"the connection failed ({plain(error)})") from error
    except requests.exceptions.RequestException as error:
        # No errno: full disks are OSErrors too, and are somebody else's.
        raise TransferError(f"{what}: {plain(error)}") from error


@contextlib.contextmanager
def disk_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn a full disk, an exhausted quota and a file-size limit into one clear error.

    Raises:
        DiskFullError: naming the folder and the space left.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise DiskFullError(
            f"{what}: {error.strerror} under {folder} ({_gigabytes(shutil.disk_usage(folder).free)} free). Make room "
            "and run the command again: what has been written is kept"
        ) from error


def need_space(what: str, folder: Path, needed: int) -> None:
    """Refuse to begin a transfer of ``needed`` bytes that cannot fit.

    Raises:
        DiskFullError: naming the folder, the bytes needed and the space left.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFullError(
            f"{what}: needs {_gigabytes(needed)} under {folder}, which has {_gigabytes(free)} free. Make room and run "
            "the command again"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None if there is none that can be read."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max((date - datetime.now(timezone.utc)).total_seconds(), 0.0)
