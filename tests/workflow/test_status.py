"""`make status` on a run that goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from .conftest import ROOT, TINY, copy_checkout


def test_the_makefile_has_it() -> None:
    assert "-m dsr.commands.status $(RESULTS)/status.json" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_it_works_while_snakemake_holds_its_lock(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    assert "Snakemake writes it when it starts" in checkout.status().stdout
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
        shown = checkout.status()
        assert running.poll() is None, "the status must be asked for while jobs run"
        running.terminate()
    assert shown.returncode == 0, shown.stdout
    assert "| dit-siglip2b " in shown.stdout
    assert "not started" in shown.stdout
    assert f"Snakemake is running (process {running.pid})" in shown.stdout
    index = "results/demo/data/prepared/validation/index.npz"
    arguments = ("--profile", "profiles/demo", "--cores", "2", "--retries", "1", index, "--configfile", *TINY)
    run = checkout.changed({"data": {"validation_images": 300}}, *arguments)
    assert run.returncode == 1, run.stdout
    shown = checkout.status()
    assert "Failed: 2 jobs." in shown.stdout
    assert "- prepare_shard validation 00001 (tried 2 times)\n" in shown.stdout
    assert "validation: holds 360 images, but the configuration says 300" in shown.stdout
    assert "  results/demo/logs/prepare/validation-00001.log\n" in shown.stdout
    assert "Snakemake is not running" in shown.stdout
    assert (log := re.search(r"Its log: (\S+)", shown.stdout))
    assert "Error in rule prepare_shard" in Path(log[1]).read_text(encoding="utf-8")
