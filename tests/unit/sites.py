"""Sites that answer clients well or badly, in the place of the network."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import urllib3
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter

TOKEN = "not-to-be-logged"


@dataclass(frozen=True)
class Reply:
    """An answer; ``cut`` hangs up after so many bytes of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


Route = Callable[[PreparedRequest], Reply]


def file(content: bytes, *, ranges: bool = True, cut: int | None = None, **headers: str) -> Route:
    """Serve a file as a good server does, or without ranges, or with a dropped connection."""

    def answer(seen: PreparedRequest) -> Reply:
        common = {"Content-Type": "application/octet-stream", "ETag": '"v1"', **_named(headers)}
        asked = re.fullmatch(r"bytes=(\d+)-", seen.headers.get("Range", ""))
        if not (ranges and asked) or seen.headers.get("If-Range", common["ETag"]) != common["ETag"]:
            return Reply(200, content, common, cut)
        start = int(asked[1])
        common["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return Reply(206, content[start:], common, cut)

    return answer


def page(title: str, body: str = "") -> Route:
    """Serve a web page."""
    content = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body>{body}</body></html>".encode()
    return lambda seen: Reply(200, content, {"Content-Type": "text/html; charset=utf-8"})


def status(code: int, **headers: str) -> Route:
    """Answer with an error."""
    return lambda seen: Reply(code, b"{}", {"Content-Type": "text/plain", **_named(headers)})


def unreachable(error: Exception) -> Route:
    """Do not answer."""

    def fail(seen: PreparedRequest) -> Reply:
        raise error

    return fail


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {key.replace("_", "-"): value for key, value in headers.items()}


class Sites:
    """Answers by `site/path` in the place of the network; a list of routes is used up one by one, its last stays."""

    def __init__(self) -> None:
        self.routes: dict[str, list[Route]] = {}
        self.seen: list[PreparedRequest] = []

    def add(self, place: str, *routes: Route) -> None:
        self.routes[place] = list(routes)

    def requests(self, place: str) -> list[PreparedRequest]:
        return [seen for seen in self.seen if _place(seen) == place]

    def send(self, adapter: HTTPAdapter, request: PreparedRequest) -> Response:
        self.seen.append(request)
        routes = self.routes.get(_place(request), [status(404)])
        reply = (routes.pop(0) if len(routes) > 1 else routes[0])(request)
        headers = {"Content-Length": str(len(reply.body)), **reply.headers}
        body = io.BytesIO(reply.body[: reply.cut])
        return adapter.build_response(request, urllib3.HTTPResponse(body, headers, reply.status, preload_content=False))


def _place(seen: PreparedRequest) -> str:
    return str(seen.url).partition("?")[0].removeprefix("https://")
