from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dsr.base import tensors
from dsr.base.files import append_json_line, atomic, read_json_lines, read_record, write_text

from .artifact_manifest import no_file_larger


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def interrupted() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half of the new", encoding="utf-8")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
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


def test_equal_tensors_are_equal_bytes_whatever_the_order_of_hashes(tmp_path: Path) -> None:
    about = {name: name for name in "abcdefgh"}
    for path in (paths := [tmp_path / f"{number}.safetensors" for number in range(5)]):
        tensors.write(path, {name: torch.ones(2) for name in about}, about)
        assert read_record(path) == about
    assert len({path.read_bytes() for path in paths}) == 1
