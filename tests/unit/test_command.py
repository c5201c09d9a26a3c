"""What a program says about its arguments, and about errors that its user can mend."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dsr.base.command import command
from dsr.base.errors import UserError
from dsr.config.specs import StatisticsSpec
from tests.unit import tiny_encoder


def run(monkeypatch: pytest.MonkeyPatch, program: Callable[[], None], *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    program()


def specification() -> dict[str, object]:
    encoder = tiny_encoder.spec().model_dump(mode="json", exclude={"decoder"})
    return {"encoding": encoder, "images": 5, "flip": True}


def test_arguments_are_what_their_types_say(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def main(spec: StatisticsSpec, images: tuple[Path, ...], neurons: Path | None = None, flip: bool = True) -> None:
        assert (spec.images, images, neurons, flip) == (5, (Path("a"), Path("b")), None, False)

    run(monkeypatch, command(main), "--spec", json.dumps(specification()), "--images", "a", "b", "--no-flip")
    steps = {"first": lambda: ran.append("first"), "second": lambda: ran.append("second")}
    run(monkeypatch, command(**steps), "second")
    assert ran == ["second"]


def test_the_help_has_an_example_and_nothing_else() -> None:
    arguments = [sys.executable, "-m", "dsr.commands.evaluate", "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("usage: python -m dsr.commands.evaluate ")
    assert done.stdout.count("(required)") == 4
    assert done.stdout.partition("after `make demo`:\n")[2].startswith(
        "PYTHONPATH=src python -m dsr.commands.evaluate "
    )


@dataclass(frozen=True)
class Files:
    """Options of a command."""

    output: Path


def test_what_cannot_be_written_is_seen_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ran = []
    (tmp_path / "file").touch()

    def own(output: Path) -> None:
        ran.append(output)

    def within(files: Files) -> None:
        ran.append(files.output)

    for step in (own, within):
        run(monkeypatch, command(step), "--output", str(tmp_path / "folder/result"))
        assert not [*(tmp_path / "folder").iterdir()]
        with pytest.raises(SystemExit, match="1"):
            run(monkeypatch, command(step), "--output", str(tmp_path / "file/result"))
        assert str(tmp_path / "file") in caplog.messages[-1]
    assert len(ran) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not the JSON of StatisticsSpec: Invalid JSON: "),
        ("{}", "not the JSON of StatisticsSpec: encoding: Field required; and 2 more. "),
        (json.dumps({**specification(), "images": -5}), "images: Input should be greater than 0 (given: -5)"),
        (json.dumps({**specification(), "imagez": 5}), "StatisticsSpec: imagez: unknown key"),
    ],
)
def test_a_wrong_specification_is_one_line(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def main(spec: StatisticsSpec) -> None:
        raise AssertionError

    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, command(main), "--spec", text)
    assert message in caplog.messages[-1]
    assert "\n" not in caplog.messages[-1]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("file.txt: missing"), "file.txt: missing"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/b"), "/a/b: No space left on device; make room there"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/a/b"), "/a/b: Read-only file system; give a place that"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/a"), "/a: Permission denied; check who may read"),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "/a"), "/a: File name too long; use a shorter"),
        (OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), "/a"), "/a: No locks available; its file system lacks"),
        (OSError(errno.EIO, os.strerror(errno.EIO), b"/a"), "/a: Input/output error; see whether the disk"),
        (
            OSError("no bundle,\n path: /no/ca.pem"),
            "path: /no/ca.pem; the environment variable BUNDLE names /no/ca.pem,",
        ),
        (FileNotFoundError(errno.ENOENT, "none", "/no/ca.pem"), "/no/ca.pem: none; the environment variable BUNDLE"),
        (OSError(errno.ENOSPC, "No space"), "No space; make room there"),
        (RuntimeError("can't allocate memory: 9 bytes"), "not enough memory (can't allocate memory: 9 bytes); ask"),
        (MemoryError(), "not enough memory (MemoryError); ask for more"),
        (UnicodeEncodeError("utf-8", "a\udcff.jpg", 1, 2, "no"), "'a\\udcff.jpg': not valid utf-8; rename the file"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_what_can_be_mended_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException, message: str
) -> None:
    def main() -> None:
        raise error

    monkeypatch.setenv("BUNDLE", "/no/ca.pem")
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, command(main))
    (line,) = caplog.messages
    assert message in line
    assert "\n" not in line
    assert caplog.records[0].exc_info is None


def test_a_mistake_of_the_program_is_a_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def main() -> None:
        raise KeyError("key")

    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, command(main))
    assert "KeyError: 'key'" in caplog.text
