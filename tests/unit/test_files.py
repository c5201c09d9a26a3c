from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsr.base.files import append_json_line, atomic, read_json_lines, sha256, write_text


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


def test_sha256_of_known_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_equal_tensors_are_equal_bytes_whatever_the_order_of_hashes(tmp_path: Path) -> None:
    program = """
import sys, torch
from pathlib import Path
from dsr.base import records, tensors
about = {name: name for name in "abcdefgh"}
path = Path(f"{sys.argv[1]}.safetensors")
tensors.write(path, {name: torch.ones(2) for name in about}, about)
assert records.read_record(path) == about
"""
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", program, str(tmp_path / seed)], env=environment, check=True)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()
