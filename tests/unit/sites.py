"""A local server that answers for any site, well or badly, over HTTPS to clients that take it as their proxy."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

GOOGLE = ("drive.google.com", "drive.usercontent.google.com", "storage.googleapis.com")
NAMES = ("files.example", "huggingface.co", "api.kaggle.com", *GOOGLE)


@dataclass(frozen=True)
class Seen:
    """A request."""

    place: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """An answer; ``cut`` hangs up after so many bytes of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


Route = Callable[[Seen], Reply]


def file(content: bytes, *, ranges: bool = True, cut: int | None = None, **headers: str) -> Route:
    """Serve a file as a good server does, or without ranges, or with a dropped connection."""

    def answer(seen: Seen) -> Reply:
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


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {key.replace("_", "-"): value for key, value in headers.items()}


class Sites(ThreadingHTTPServer):
    """Answers by `site/path`; a list of routes is used up one by one, its last stays."""

    daemon_threads = True

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.routes: dict[str, list[Route]] = {}
        self.seen: list[Seen] = []
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate)

    def add(self, place: str, *routes: Route) -> None:
        self.routes[place] = list(routes)

    def answer(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        routes = self.routes.get(seen.place, [status(404)])
        return (routes.pop(0) if len(routes) > 1 else routes[0])(seen)

    def requests(self, place: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.place == place]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Sites
    site = ""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Keep the test output clean."""

    def do_CONNECT(self) -> None:
        self.site = self.path.partition(":")[0]
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, query = self.path.partition("?")
        reply = self.server.answer(Seen(self.site + path, query, self.headers))
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[: reply.cut])
            self.close_connection |= reply.cut is not None

    do_HEAD = do_POST = do_GET  # noqa: N815 (what the library calls)

    def finish(self) -> None:
        super().finish()
        # The tunnel's socket is not the one that the server knows and closes.
        self.connection.close()


def make_certificate(folder: Path) -> Path:
    """Make a certificate for all sites of the tests, key and certificate in one file."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    names = ",".join(f"DNS:{name}" for name in NAMES)
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    request += ["-days", "2", "-subj", "/CN=tests", "-addext", f"subjectAltName={names}"]
    request += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(request, check=True, capture_output=True)
    certificate.write_text(certificate.read_text() + key.read_text())
    return certificate
