"""Processes of tests, forked from a server that has imported what takes longer than most of what they do; stand-ins."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
"""One for all tests of a worker: the first list of imports counts."""
WORKFLOW = ("artifacts.manifest", "config.load", "launch.slurm", "plan.status", "report.entries")
SERVER.set_forkserver_preload(
    [
        *("tests.workflow.preload", "smart_open", *(f"dsr.{name}" for name in WORKFLOW), "tests.workflow.conftest"),
        *("tests.unit.training_row", "dsr.training.loop", "torch._dynamo", __name__),
    ]
)


def stand_in(program: Path, script: str) -> None:
    """Write a shell script to have in the place of one of the host's programs."""
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


def start_ranks(work: Callable[..., None], *arguments: tuple[Any, ...]) -> list[Any]:
    """Start processes that find each other, one for each of these arguments; ``work`` gets the world before them."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": str(len(arguments)), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    ranks = [
        SERVER.Process(target=_be, args=(work, {**place, "RANK": str(rank)}, own)) for rank, own in enumerate(arguments)
    ]
    for process in ranks:
        process.start()
    return ranks


def _be(work: Callable[..., None], place: dict[str, str], arguments: tuple[Any, ...]) -> None:
    """Be one of them."""
    import torch

    from dsr.base.distributed import world

    os.environ |= place
    torch.set_num_threads(1)
    with world() as processes:
        work(processes, *arguments)


def start_module(log: Path, module: str, *arguments: str) -> Any:
    """Start `python -m module arguments`, which writes into ``log``."""
    process = SERVER.Process(target=be_module, args=(log, module, arguments))
    process.start()
    return process


def be_module(log: Path | str, module: str, arguments: tuple[str, ...]) -> None:
    """Be that command."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def ended(*processes: Any, seconds: float = 120) -> set[int]:
    """Wait for processes and return their exit codes; one that does not end is killed, and a mistake."""
    for process in processes:
        process.join(seconds)
    codes = {process.exitcode for process in processes}
    for process in processes:
        process.kill()
    assert None not in codes, "a process does not end"
    return codes
