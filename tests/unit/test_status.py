"""Where rows stand, from the files that their jobs write."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from dsr.analysis.track import Expected
from dsr.commands.status import main
from dsr.config.specs import json_hash
from dsr.plan.status import Failures, QueuedJob, RowFiles, Score, StatusSpec, failed, slurm_queue, table
from tests.processes import stand_in

NOW = 1_000_000.0
EXPECTED = Expected(published=(5.0,))


def row(folder: Path, name: str) -> RowFiles:
    return RowFiles(
        run=f"{folder}/{name}",
        images_per_epoch=1000,
        weights={epoch: f"{folder}/{name}/ema-{epoch}" for epoch in (4, 8)},
        scores=tuple(
            Score(path=f"{folder}/{name}/score-{epoch}", epoch=epoch, spec=json_hash({}), expected=EXPECTED)
            for epoch in (4, 8)
        ),
    )


def write(folder: Path, name: str, *lines: dict[str, Any], files: tuple[str, ...] = ()) -> None:
    (folder / name).mkdir(exist_ok=True)
    defaults = {"steps": 5, "loss": 0.5, "time": NOW - 60, "restart": 0}
    text = "".join(json.dumps({**defaults, **line}) + "\n" for line in lines)
    (folder / name / "metrics.jsonl").write_text(text, encoding="utf-8")
    for file in files:
        path = folder / name / file
        path.write_text('{"fid": 5.1}', encoding="utf-8")
        os.utime(path, (NOW - 7200, NOW - 7200))


def spec(folder: Path, *names: str) -> StatusSpec:
    return StatusSpec(
        title="Test", folder="/here", host=socket.gethostname(), pid=os.getpid(), log="/here/snakemake.log",
        failures=f"{folder}/failures.json", rows={name: row(folder, name) for name in names},
    )  # fmt: skip


def cells(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_row_in_training(tmp_path: Path) -> None:
    lines = [
        {"epoch": 4.0, "step": 40, "images_per_second": 1.0, "restart": 1},
        {"epoch": 4.5, "step": 45, "images_per_second": 10.0, "restart": 2, "loss": 0.75},
        {"epoch": 5.0, "step": 50, "images_per_second": 30.0, "restart": 2, "loss": 0.25},
    ]
    write(tmp_path, "a", *lines, files=("ema-4", "score-4", "state-00000045.pt"))
    shown = cells(table(spec(tmp_path, "a"), None, NOW), "a")
    # Time adds up, not speed; and what ran before the last start says nothing. Three starts, two milestones begun.
    assert shown == ["5.0/8", "15.0", "3 min", "0.2500", "1 min ago", "2:00 h ago", "1", "1/2", "-"]


def test_the_newest_fid_is_judged(tmp_path: Path) -> None:
    write(tmp_path, "a", {"epoch": 8.0, "step": 80, "images_per_second": 1.0}, files=("score-4", "score-8"))
    (tmp_path / "a/score-8").write_text('{"fid": 9.0}', encoding="utf-8")
    assert "- a, epoch 8: 9.00, above (worse) (4.76 to 5.24 expected)\n" in table(spec(tmp_path, "a"), None, NOW)
    (tmp_path / "a/score-8").unlink()
    assert "- a, epoch 4: 5.10, on track (4.76 to 5.24 expected)\n" in table(spec(tmp_path, "a"), None, NOW)
    (tmp_path / "a/score-4").write_text('{"fid": 5.0, "spec": {"edition": 2}}', encoding="utf-8")
    assert "- a, epoch 4: scored with other settings than" in table(spec(tmp_path, "a"), None, NOW)
    (tmp_path / "a/score-4").unlink()
    assert "published" not in table(spec(tmp_path, "a"), None, NOW)


def test_rows_that_have_not_begun_or_are_done(tmp_path: Path) -> None:
    line = {"epoch": 8.0, "step": 80, "images_per_second": 1000.0, "restart": 1}
    write(tmp_path, "done", line, files=("ema-4", "ema-8", "score-4", "score-8"))
    write(tmp_path, "killed")
    text = table(spec(tmp_path, "done", "waiting", "killed"), [], NOW)
    assert cells(text, "done")[:3] == ["8.0/8", "1000", "done"]
    assert cells(text, "done")[5:] == ["-", "0", "2/2", "none"]
    assert cells(text, "waiting") == cells(text, "killed") == ["not started", *["-"] * 6, "0/2", "none"]
    fetched = row(tmp_path, "other").model_copy(update={"run": None})
    text = table(spec(tmp_path).model_copy(update={"rows": {"other": fetched}}), None, NOW)
    assert cells(text, "other")[0] == "fetched weights"


def test_jobs_of_rows_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "RUNNING|None|/here|rule_train_wildcards_dit_800",
        "PENDING|Priority|/here|rule_sample_wildcards_dit_4_unguided_0",
        "PENDING|BeginTime|/here|rule_train_wildcards_dit-dsr_800",
        "PENDING|Dependency|/here|rule_prepare_shard_wildcards_00001_train",
        "RUNNING|None|/elsewhere|rule_train_wildcards_dit_800",
        "RUNNING|None|/here|(null)",
    ]
    squeue = tmp_path / "squeue"
    stand_in(squeue, "cat <<'END'\n" + "\n".join(lines) + "\nEND")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    queue = slurm_queue()
    assert queue[0] == QueuedJob("RUNNING", "None", "/here", "rule_train_wildcards_dit_800")
    text = table(spec(tmp_path, "dit", "dit-dsr"), queue, NOW)
    assert cells(text, "dit")[-1] == "1 running, 1 pending (Priority)"
    assert cells(text, "dit-dsr")[-1] == "1 pending (BeginTime)"
    assert "Other jobs: 1 pending (Dependency) (1 prepare_shard)." in text
    stand_in(squeue, "exit 1")
    assert slurm_queue() is None


def test_what_failed_is_kept_until_it_succeeds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.Logger("snakemake")
    names = {7: "train dit 800", 8: "crop 0", 9: "crop 1", 10: "table"}
    logger.addHandler(Failures(tmp_path / "failures.json", names))

    def say(event: str, **fields: Any) -> None:
        logger.error(None, extra={"event": event, **fields})

    def error(number: int, rule: str, *logs: str, slurm: str | None = None) -> dict[str, Any]:
        aux = {"external_jobid": slurm} if slurm else {}
        return {"jobid": number, "rule_name": rule, "rule_msg": "FAILED", "log": [*logs], "aux": aux}

    (tmp_path / "train.log").write_text("1 INFO a\n2 ERROR dsr: loss is NaN\nExited: 1\n\n", encoding="utf-8")
    (tmp_path / "slurm.log").write_text("out of memory\n", encoding="utf-8")
    say("job_error", **error(7, "train", "train.log", "slurm.log", slurm="41"))
    say("job_error", **error(7, "train", "train.log", "slurm.log", slurm="42"))
    say("group_error", aux_logs=["slurm.log"], job_error_info=[error(8, "crop", "crop.log"), error(9, "crop")])
    say("job_error", **error(10, "table"))
    say("job_finished", job_id=8)
    say("progress")
    assert failed(tmp_path / "failures.json", tmp_path).splitlines() == [
        "Failed: 3 jobs.",
        *("- train dit 800 (tried 2 times, SLURM job 42)", "  2 ERROR dsr: loss is NaN", "  train.log"),
        *("- crop 1 (tried 1 time)", "  out of memory", "  slurm.log"),
        *("- table (tried 1 time)", "  FAILED", "  "),
    ]
    assert "- train dit 800" in table(spec(tmp_path, "dit"), None, NOW).replace(f"{tmp_path}/", "")
    assert failed(tmp_path / "none.json", tmp_path) == ""

    # Another run, with other numbers.
    logger.handlers = [Failures(tmp_path / "failures.json", {1: "train dit 800"})]
    assert "- train dit 800 (tried 2 times" in failed(tmp_path / "failures.json", tmp_path)
    say("job_finished", job_id=1)
    assert "Failed: 2 jobs." in failed(tmp_path / "failures.json", tmp_path)

    # Where the list cannot be written, the run goes on.
    logger.handlers = [Failures(tmp_path / "train.log/failures.json", {1: "train dit 800"})]
    say("job_error", **error(1, "train"))
    assert "(list of failed jobs)" in caplog.text


def test_a_file_of_another_version_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "status.json").write_text('{"title": "older"}', encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["status", str(tmp_path / "status.json")])
    with pytest.raises(SystemExit):
        main()
    assert "written by another version" in caplog.text
