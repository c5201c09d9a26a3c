"""`make status` on real runs: one that goes on, one that is over."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from .conftest import ROOT, TINY, Checkout, copy_checkout


def status(checkout: Checkout) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dsr.commands.status", "results/demo/status.json"]
    environment = {**os.environ, "PYTHONPATH": "src"}
    return subprocess.run(
        command, cwd=checkout.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_makefile_has_it() -> None:
    assert "-m dsr.commands.status $(RESULTS)/status.json" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_it_works_while_snakemake_holds_its_lock(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    assert "Snakemake writes it when it starts" in status(checkout).stderr
    binaries = str(Path(sys.executable).parent)
    command = [f"{binaries}/snakemake", "--profile", "profiles/demo", "--configfile", *TINY, "--cores", "1"]
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"}
    with subprocess.Popen(
        [*command, "results/demo/data/prepared/train/index.npz"],
        cwd=checkout.folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        deadline = time.monotonic() + 120
        while not (checkout.folder / "results/demo/status.json").exists():
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        shown = status(checkout)
        assert running.poll() is None, "the status must be asked for while jobs run"
        running.terminate()
    assert shown.returncode == 0, shown.stderr
    assert "| dit-siglip2b " in shown.stdout
    assert "not started" in shown.stdout


def test_a_finished_run_is_done(finished: Checkout) -> None:
    shown = status(finished)
    assert shown.returncode == 0, shown.stderr
    rows = [line.split("|") for line in shown.stdout.splitlines() if line.startswith("| dit")]
    assert len(rows) == 6
    for cells in rows:
        _, _, epoch, speed, to_go, loss, reported, checkpoint, restarts, scored, *_ = [cell.strip() for cell in cells]
        assert (epoch, to_go, restarts) == ("1.0/1", "done", "0")
        assert float(speed) > 0
        assert float(loss) > 0
        assert reported.endswith("ago")
        assert checkpoint.endswith("ago")
        done, planned = scored.split("/")
        assert done == planned
