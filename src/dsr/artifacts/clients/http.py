"""Plain HTTP with resume, on requests."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import requests
from tqdm import tqdm

from dsr.artifacts import transfer
from dsr.base import files


def fetch(url: str, target: Path, what: str, denied: str, headers: Mapping[str, str] | None = None) -> None:
    """Download to ``target`` unless it is there, going on with what an earlier attempt received.

    Bytes arrive in `<target>.part`; `<target>.part.version` says which version of the remote file they belong to.

    Args:
        url: where from.
        target: where to.
        what: what messages name.
        denied: what to do where access is refused.
        headers: to send besides.

    Raises:
        UserError: if it cannot be had.
    """
    part = target.with_name(f"{target.name}.part")
    if not target.exists():
        transfer.retrying(what, denied, lambda: _attempt(url, part, what, headers or {}))
        part.replace(target)


def _attempt(url: str, part: Path, what: str, headers: Mapping[str, str]) -> None:
    """Receive what is missing of ``part``."""
    version = part.with_name(f"{part.name}.version")
    known = version.read_text(encoding="utf-8") if version.exists() else ""
    have = part.stat().st_size if known and part.exists() else 0
    # If-Range: a file that changed since comes whole instead of being spliced onto old bytes.
    rest = {"Range": f"bytes={have}-", "If-Range": known} if have else {}
    asked = {**headers, "Accept-Encoding": "identity", **rest}
    with requests.get(url, headers=asked, stream=True, timeout=transfer.TIMEOUT) as response:
        place, _, total = response.headers.get("Content-Range", "").partition("/")
        is_rest = response.status_code == requests.codes.partial_content
        if response.status_code == requests.codes.requested_range_not_satisfiable or (
            is_rest and not place.startswith(f"bytes {have}-")
        ):
            part.unlink(missing_ok=True)
            raise transfer.TransientError("the server has no such rest of the file; starting over")
        response.raise_for_status()
        blocks = response.iter_content(1 << 20)
        first = next(blocks, b"")
        if not is_rest:
            transfer.refuse_page(what, first)
            files.write_text(version, _version(response))
            total = response.headers.get("Content-Length", "")
        with part.open("ab" if is_rest else "wb") as stream:
            for block in tqdm(itertools.chain([first], blocks), unit=" MB", desc=part.stem, disable=None):
                stream.write(block)
    received = part.stat().st_size
    if total.isdigit() and received != int(total):
        raise transfer.TransientError(f"received {received} of {total} bytes")


def _version(response: requests.Response) -> str:
    """What tells this version of the remote file from another; weak tags do not."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
