"""Plain HTTP with resume, on requests."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import requests
from tqdm import tqdm

from dsr.artifacts import transfer
from dsr.artifacts.errors import OWN_COPY, TransientError
from dsr.artifacts.transfer import Retries
from dsr.base import files

log = logging.getLogger(__name__)

_BLOCK = 1 << 20
_TIMEOUT = (15.0, 60.0)
_DENIED = f"The address may have moved: check it in a browser, or {OWN_COPY}"


def fetch(url: str, target: Path, retries: Retries) -> Path:
    """Download ``url`` to ``target``; a complete one is kept, a partial one continued.

    Bytes arrive in `<target>.part`; `<target>.part.json` says which version of the remote file they belong to.

    Raises:
        RefusedError, TransferError, DiskFullError: see :mod:`dsr.artifacts.errors`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        what = transfer.plain(url)
        log.info("Downloading %s", what)
        part = target.with_name(f"{target.name}.part")
        transfer.retrying(what, lambda: _attempt(url, part), retries)
        part.replace(target)
        _state_file(part).unlink(missing_ok=True)
    return target


def _attempt(url: str, part: Path) -> None:
    """Receive what is missing of ``part``."""
    what = transfer.plain(url)
    state = _read_state(part)
    have = part.stat().st_size if part.exists() and state["validator"] else 0
    if have and have == state["total"]:
        return
    headers = {"Accept-Encoding": "identity"}
    if have:
        # If-Range: a file that changed since comes whole instead of being spliced onto old bytes.
        headers |= {"Range": f"bytes={have}-", "If-Range": state["validator"]}
    with (
        transfer.network_errors(what),
        requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response,
    ):
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink(missing_ok=True)
            raise TransientError("the server has no such rest of the file; starting over")
        if not response.ok:
            transfer.refuse_status(what, response.status_code, response.headers, denied=_DENIED)
        _receive(what, response, part, have)


def _receive(what: str, response: requests.Response, part: Path, have: int) -> None:
    start, total = _extent(response)
    if start not in (0, have):
        part.unlink(missing_ok=True)
        raise TransientError(f"the server sent bytes from {start} instead of {have}; starting over")
    blocks = response.iter_content(_BLOCK)
    first = next(blocks, b"")
    if not start:
        transfer.refuse_page(what, first)
    if total is not None:
        transfer.need_space(what, part.parent, total - start)
    files.write_json(_state_file(part), {"validator": _validator(response), "total": total})
    with (
        part.open("ab" if start else "wb") as stream,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as progress,
    ):
        block = first
        while block:
            stream.write(block)
            progress.update(len(block))
            block = next(blocks, b"")
    received = part.stat().st_size
    if total is not None and received != total:
        raise TransientError(f"received {received} of {total} bytes")


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """First byte and total size that a response announces."""
    if response.status_code == requests.codes.partial_content:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        # An unreadable range equals no start: the caller begins anew.
        return (int(match[1]), int(match[2])) if match else (-1, None)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _validator(response: requests.Response) -> str | None:
    """What tells this version of the remote file from another; weak tags do not."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _state_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path) -> dict[str, Any]:
    path = _state_file(part)
    state: dict[str, Any] = files.read_json(path) if path.exists() else {"validator": None, "total": None}
    return state
