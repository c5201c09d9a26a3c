"""What a program says about its arguments, and about errors that its user can mend; files are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dsr.base import tensors
from dsr.base.command import command
from dsr.base.errors import UserError
from dsr.base.files import append_json_line, atomic, read_json_lines, read_record, write_text
from dsr.config.specs import StatisticsSpec
from tests.unit import tiny_encoder

from .artifact_manifest import no_file_larger

Run = Callable[..., None]


def specification() -> dict[str, object]:
    encoder = tiny_encoder.spec().model_dump(mode="json", exclude={"decoder"})
    return {"encoding": encoder, "images": 5, "flip": True}


def test_arguments_are_what_their_types_say(run_command: Run) -> None:
    ran = []

    def main(spec: StatisticsSpec, images: tuple[Path, ...], neurons: Path | None = None, flip: bool = True) -> None:
        assert (spec.images, images, neurons, flip) == (5, (Path("a"), Path("b")), None, False)

    run_command(command(main), "--spec", json.dumps(specification()), "--images", "a", "b", "--no-flip")
    steps = {"first": lambda: ran.append("first"), "second": lambda: ran.append("second")}
    run_command(command(**steps), "second")
    assert ran == ["second"]


def test_the_help_has_an_example_and_nothing_else() -> None:
    arguments = [sys.executable, "-m", "dsr.commands.evaluate", "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("usage: python -m dsr.commands.evaluate ")
    assert done.stdout.count("(required)") == 4
    assert "after `make demo`:\nPYTHONPATH=src python -m dsr.commands.evaluate " in done.stdout


@dataclass(frozen=True)
class Files:
    """Options of a command."""

    output: Path


def test_what_cannot_be_written_is_seen_before_anything_is_computed(
    run_command: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ran = []
    (tmp_path / "file").touch()

    def own(output: Path) -> None:
        ran.append(output)

    def within(files: Files) -> None:
        ran.append(files.output)

    for step in (own, within):
        run_command(command(step), "--output", str(tmp_path / "folder/result"))
        assert not [*(tmp_path / "folder").iterdir()]
        with pytest.raises(SystemExit, match="1"):
            run_command(command(step), "--output", str(tmp_path / "file/result"))
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
    run_command: Run, caplog: pytest.LogCaptureFixture, text: str, message: str
) -> None:
    def main(spec: StatisticsSpec) -> None:
        raise AssertionError

    with pytest.raises(SystemExit, match="1"):
        run_command(command(main), "--spec", text)
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
    run_command: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    message: str,
) -> None:
    def main() -> None:
        raise error

    monkeypatch.setenv("BUNDLE", "/no/ca.pem")
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(SystemExit, match="1"):
        run_command(command(main))
    (line,) = caplog.messages
    assert message in line
    assert "\n" not in line
    assert caplog.records[0].exc_info is None


def test_a_mistake_of_the_program_is_a_traceback(run_command: Run, caplog: pytest.LogCaptureFixture) -> None:
    def main() -> None:
        raise KeyError("key")

    with pytest.raises(SystemExit, match="1"):
        run_command(command(main))
    assert "KeyError: 'key'" in caplog.text


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    with contextlib.suppress(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half of the new", encoding="utf-8")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def write_tensors(path: Path) -> None:
    tensors.write(path, {"a": torch.ones(5000)}, {})


def write_state(path: Path) -> None:
    with atomic(path) as temporary, temporary.open("wb") as stream:
        torch.save({"a": torch.ones(5000)}, stream)


@pytest.mark.parametrize("write", [lambda path: write_text(path, "a" * 5000), write_tensors, write_state])
def test_a_full_disk_is_an_error_of_the_system_that_names_the_file(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    with no_file_larger(1000), pytest.raises(OSError, match="File too large") as caught:
        write(tmp_path / "file")
    assert caught.value.filename == str(tmp_path / "file")
    assert [*tmp_path.iterdir()] == []


def test_a_line_cut_off_by_a_crash_is_skipped_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_json_line(path, {"step": 1})
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"step": 2, "lo')
    assert read_json_lines(path) == [{"step": 1}]
    append_json_line(path, {"step": 2})
    append_json_line(path, {"step": 3})
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert path.read_text(encoding="utf-8").count("\n") == 4


def test_equal_tensors_are_equal_files_whatever_the_order_of_hashes(tmp_path: Path) -> None:
    about = {name: name for name in "abcdefgh"}
    for path in (paths := [tmp_path / f"{number}.safetensors" for number in range(5)]):
        tensors.write(path, {name: torch.ones(2) for name in about}, about)
        assert read_record(path) == about
    assert len({path.read_bytes() for path in paths}) == 1
    (other := tmp_path / "other").touch()
    assert {path.stat().st_mode for path in paths} == {other.stat().st_mode}
