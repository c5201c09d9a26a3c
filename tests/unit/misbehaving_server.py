"""A local server that answers for any site, well or badly: plain HTTP, and HTTPS for clients that take it as proxy."""

from __future__ import annotations

import re
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SITES = (
    "api.kaggle.com",
    "storage.googleapis.com",
    "drive.google.com",
    "drive.usercontent.google.com",
    "huggingface.co",
)


@dataclass(frozen=True)
class Seen:
    """A request."""

    method: str
    site: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]


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
        common = {
            "Content-Type": "application/octet-stream",
            "ETag": '"v1"',
            **{key.replace("_", "-"): value for key, value in headers.items()},
        }
        asked = re.fullmatch(r"bytes=(\d+)-", seen.headers.get("Range", ""))
        if not (ranges and asked) or seen.headers.get("If-Range", common["ETag"]) != common["ETag"]:
            return Reply(200, content, common, cut)
        start = int(asked[1])
        if start >= len(content):
            return Reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        common["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return Reply(206, content[start:], common, cut)

    return answer


def page(title: str, body: str = "") -> Route:
    """Serve a web page."""
    content = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body>{body}</body></html>".encode()
    return lambda seen: Reply(200, content, {"Content-Type": "text/html; charset=utf-8"})


def status(code: int, **headers: str) -> Route:
    """Answer with an error."""
    named = {"Content-Type": "text/plain", **{key.replace("_", "-"): value for key, value in headers.items()}}
    return lambda seen: Reply(code, b"{}", named)


class Server(ThreadingHTTPServer):
    """Answers by `site/path`; a list of routes is used up one by one, its last stays."""

    daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.routes: dict[str, list[Route]] = {}
        self.seen: list[Seen] = []
        self.tls: ssl.SSLContext | None = None
        if certificate is not None:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(certificate)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, place: str, *routes: Route) -> None:
        self.routes[place] = list(routes)

    def answer(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        routes = self.routes.get(f"{seen.site}{seen.path}")
        if not routes:
            return Reply(404, b"nothing here")
        return (routes.pop(0) if len(routes) > 1 else routes[0])(seen)

    def requests(self, place: str) -> list[Seen]:
        return [seen for seen in self.seen if f"{seen.site}{seen.path}" == place]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    site = "127.0.0.1"

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Keep the test output clean."""

    def do_CONNECT(self) -> None:
        self.site = self.path.partition(":")[0]
        self.send_response(200)
        self.end_headers()
        assert self.server.tls is not None
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        address = urlsplit(self.path)
        seen = Seen(self.command, self.site, address.path, parse_qs(address.query), dict(self.headers.items()))
        reply = self.server.answer(seen)
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])
        if reply.cut is not None:
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def finish(self) -> None:
        super().finish()
        # The tunnel's socket is not the one that the server knows and closes.
        self.connection.close()


@contextmanager
def running(certificate: Path | None = None) -> Iterator[Server]:
    """Serve in a thread."""
    server = Server(certificate)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_certificate(folder: Path) -> Path:
    """Make a certificate for all sites of the tests, key and certificate in one file."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    names = ",".join(f"DNS:{site}" for site in SITES)
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    request += ["-days", "2", "-subj", "/CN=tests", "-addext", f"subjectAltName={names}"]
    request += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(request, check=True, capture_output=True)
    certificate.write_text(certificate.read_text() + key.read_text())
    return certificate
