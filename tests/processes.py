"""Processes of tests, forked from a server that has imported what takes longer than most of what they do; stand-ins."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
"""One for all tests of a worker: the first list of imports counts."""
WORKFLOW = ("artifacts.manifest", "config.load", "launch.slurm", "plan.status", "report.entries")
SERVER.set_forkserver_preload(
    [
        *("tests.workflow.preload", "smart_open", *(f"dsr.{name}" for name in WORKFLOW), "tests.workflow.conftest"),
        *("tests.unit.training_row", "dsr.training.loop", __name__),
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
