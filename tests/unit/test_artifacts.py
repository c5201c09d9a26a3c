"""One artifact over plain HTTP, from good and bad servers; manifest, lock and command line."""

from __future__ import annotations

import email.utils
import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dsr.artifacts import lock, manifest
from dsr.base.errors import UserError

from .artifact_manifest import GRAPH, Thing, graph, no_file_larger
from .sites import Reply, Route, Seen, Sites, file, page, status

CONTENT = graph("input", "pool_3", padding=3_000_000)
PLACE = "files.example/graph.pb"


@pytest.fixture
def case(tmp_path: Path) -> Thing:
    """One artifact that is at an address, which is signed."""
    source = {"client": "http", "url": f"https://{PLACE}?Signature=secret"}
    return Thing(tmp_path, "results/graph.pb", source, GRAPH, "graph.pb")


def test_download_is_published_and_recorded(case: Thing, sites: Sites) -> None:
    sites.add(PLACE, file(CONTENT))
    case.fetch()
    assert case.output.read_bytes() == CONTENT
    entry = json.loads(case.lock.read_text())["artifacts"]["thing"]
    assert entry["files"] == {"graph.pb": {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}}
    assert [path.suffix for path in case.downloads.iterdir()] == [".guard"]
    case.fetch()
    assert len(sites.seen) == 1, "a complete artifact is not downloaded again"
    case.output.write_bytes(b"half")
    with pytest.raises(UserError, match=r"is there already: remove it and run again"):
        case.fetch()


OTHER = graph("input", "pool_3", padding=2_900_000)


def piece(seen: Seen) -> Reply:
    """Answer with less than was asked for."""
    whole = file(CONTENT)(seen)
    return replace(whole, body=whole.body[:1000])


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ([file(CONTENT)], CONTENT),
        ([file(CONTENT, ranges=False)], CONTENT),
        ([piece, file(CONTENT)], CONTENT),
        ([status(416), file(CONTENT)], CONTENT),
        ([file(OTHER, ETag='"v2"')], OTHER),
    ],
    ids=["continued", "starts over", "shorter than asked", "no such range", "changed and not spliced"],
)
def test_interrupted_transfer(case: Thing, sites: Sites, then: list[Route], expected: bytes) -> None:
    sites.add(PLACE, file(CONTENT, cut=2_000_000), *then)
    case.fetch()
    assert case.output.read_bytes() == expected
    first, second, *_ = sites.seen
    assert "Range" not in first.headers
    assert second.headers["If-Range"] == '"v1"'
    assert 0 < int(second.headers["Range"].removeprefix("bytes=").rstrip("-")) <= 2_000_000


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (file(CONTENT, cut=1_000), r"gave up after 3 attempts.*Run the command again to go on"),
        (page("Please log in"), r'web page instead of the file, saying: "Please log in"'),
    ],
)
def test_truncated_transfer_is_kept_for_the_next_run(case: Thing, sites: Sites, then: Route, message: str) -> None:
    sites.add(PLACE, file(CONTENT, cut=1_500_000), then)
    with pytest.raises(UserError, match=message):
        case.fetch()
    assert not case.output.exists()
    assert case.received > 0
    sites.add(PLACE, file(CONTENT))
    case.fetch()
    assert case.output.read_bytes() == CONTENT
    assert "Range" in sites.seen[-1].headers


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (status(401), r"access refused \(HTTP 401\).*give a copy of your own \(`artifacts` in config.yaml\)"),
        (status(403), r"access refused \(HTTP 403\).*give a copy of your own"),
        (status(404), r"not there any more \(HTTP 404\).*change src/dsr/artifacts/manifest.yaml"),
        (status(418), r"the server answered HTTP 418"),
        (status(429, Retry_After="900"), r"HTTP 429; the server asks to wait 900 s.*kept"),
        (status(503), r"HTTP 503; gave up after 3 attempts"),
        (page("Log in"), r'web page instead of the file, saying: "Log in"'),
        (file(graph("input")), r"lacks pool_3; .*The download is kept in .*delete it"),
    ],
)
def test_failed_download(
    case: Thing, sites: Sites, caplog: pytest.LogCaptureFixture, route: Route, message: str
) -> None:
    caplog.set_level("INFO")
    sites.add(PLACE, route)
    with pytest.raises(UserError, match=message) as caught:
        case.fetch()
    assert len(sites.seen) == (3 if "after 3" in message else 1)
    assert not case.output.exists()
    assert not case.lock.exists()
    assert sites.seen[0].query == "Signature=secret"
    assert "secret" not in caplog.text + str(caught), "an address may be signed"


def test_retry_after_is_honoured(case: Thing, sites: Sites) -> None:
    date = email.utils.formatdate(time.time() - 5, usegmt=True)
    sites.add(PLACE, status(429, Retry_After="0"), status(503, Retry_After=date), file(CONTENT))
    case.fetch()
    assert case.output.read_bytes() == CONTENT


def test_no_server_and_wrong_settings(
    case: Thing, sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text("nothing like a certificate")
    for name, value in (("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem")), ("HTTPS_PROXY", "http://127.0.0.1:nowhere")):
        monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=rf"Check this machine's proxy and certificates \(.*{name}.* set\)"):
            case.fetch()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    nowhere = {"client": "http", "url": "http://127.0.0.1:1/graph.pb"}
    with pytest.raises(UserError, match=r"the connection failed .*gave up after 3 attempts"):
        Thing(tmp_path, "graph.pb", nowhere, GRAPH, "graph.pb").fetch()


def test_other_content_than_recorded_and_a_damaged_lock(case: Thing, sites: Sites) -> None:
    sites.add(PLACE, file(CONTENT))
    case.fetch()
    case.output.unlink()
    other = graph("input", "pool_3", padding=10)
    sites.add(PLACE, file(other, ETag='"v2"'))
    message = r"graph.pb has \d+ bytes .*artifacts.lock recorded .*remove the entry 'thing' from .*artifacts.lock"
    with pytest.raises(UserError, match=message):
        case.fetch()
    assert not case.output.exists()
    case.lock.unlink()
    case.fetch()
    assert case.output.read_bytes() == other
    assert len(sites.seen) == 2, "the accepted file was there already"
    case.lock.write_text('{"version": 1, "artifacts": {"thing": 3}}')
    with pytest.raises(UserError, match=r"not a lock file \(artifacts.thing.*Restore it from version control"):
        case.fetch()


def test_local_copy_is_checked_and_linked(case: Thing, tmp_path: Path, sites: Sites) -> None:
    own = tmp_path / "own.pb"
    with pytest.raises(UserError, match=r"own.pb: no such file or folder. .* your own copy of 'thing'.*give another"):
        case.fetch(local=own)
    own.write_bytes(graph("input"))
    with pytest.raises(UserError, match="lacks pool_3"):
        case.fetch(local=own)
    own.write_bytes(OTHER)
    case.fetch(local=own)
    assert case.output.is_symlink()
    case.fetch(local=Path(shutil.copy(own, tmp_path / "other.pb")))
    assert case.output.resolve() == tmp_path / "other.pb"
    assert not sites.seen
    assert not case.lock.exists(), "a local copy says nothing about what the publisher hands out"
    case.output.unlink()
    sites.add(PLACE, file(CONTENT))
    case.fetch()
    with pytest.raises(UserError, match=r"recorded .*remove the entry 'thing' .*It is your own copy.*give another"):
        case.fetch(local=own)
    own.write_bytes(CONTENT)
    with pytest.raises(FileExistsError, match="is in the way and will not be overwritten"):
        case.fetch(local=own)


def test_file_system_without_locks(
    case: Thing, sites: Sites, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", fail)
    sites.add(PLACE, file(CONTENT))
    case.fetch()
    assert case.output.read_bytes() == CONTENT
    assert ["no locks on this file system" in line for line in caplog.messages] == [True]


def test_file_size_limit_keeps_what_was_written(case: Thing, sites: Sites) -> None:
    sites.add(PLACE, file(CONTENT))
    with no_file_larger(2_000_000), pytest.raises(OSError, match=r"File too large: .*graph.pb"):
        case.fetch()
    assert case.received == 2_000_000
    case.fetch()
    assert case.output.read_bytes() == CONTENT
    assert sites.seen[-1].headers["Range"] == "bytes=2000000-"


def test_packaged_manifest_is_valid_and_documented() -> None:
    packaged = manifest.load()
    text = (Path(__file__).parents[2] / "docs" / "artifacts.md").read_text()
    for identifier, artifact in packaged.artifacts.items():
        row = next((line for line in text.splitlines() if line.startswith(f"| `{identifier}` ")), "")
        place = getattr(artifact.source, "path", artifact.page)
        assert place in row, f"{identifier}: docs/artifacts.md does not name {place}"
        assert (artifact.licence or "none stated") in row
        assert artifact.accept is None or artifact.accept in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "blue"}, r"artifacts.thing.colour: unknown key"),
        ({"check": {"kind": "images"}}, "images come from kaggle"),
        ({"files": ["../x"]}, r"files.0"),
    ],
)
def test_wrong_manifest(case: Thing, change: dict[str, object], message: str) -> None:
    content = manifest.yaml.safe_load(case.manifest.read_text())
    content["artifacts"]["thing"] |= change
    case.manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        case.fetch()


def record(path: Path, names: Sequence[str]) -> None:
    source = manifest.HttpSource(client="http", url="https://files.example")
    for name in names:
        lock.record(path, name, source, None, {"x": lock.Measure(size=1, sha256="a")})


def test_lock_keeps_entries_of_parallel_processes(tmp_path: Path) -> None:
    path, names = tmp_path / "artifacts.lock", [f"thing-{number:02d}" for number in range(20)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.starmap(record, [(path, names[start::2]) for start in range(2)])
    assert list(lock.read(path).artifacts) == names
