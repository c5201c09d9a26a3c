"""The few collective operations that the workflow needs; all of them work with a single process too."""

import contextlib
import datetime
import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from dsr.base.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Who this process is: ``rank`` of ``size``, computing on ``device``."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the one process that writes files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """True on all processes if ``flag`` is true on at least one."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum of ``value`` over all processes, in place; the dtype is kept."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def on_main(self, action: Callable[[], T]) -> T:
        """Run ``action`` on the first process and return its result on all.

        Raises:
            UserError: that of the action; the other processes leave without a word.
        """
        shared: list[T | UserError | None] = [None]
        if self.is_main:
            try:
                shared = [action()]
            except UserError as error:
                shared = [error]
        if self.size > 1:
            dist.broadcast_object_list(shared)
        (result,) = shared
        if isinstance(result, UserError):
            raise result if self.is_main else SystemExit(1)
        return cast(T, result)


@contextlib.contextmanager
def world(timeout_minutes: float = 10.0) -> Iterator[World]:
    """Join the process group that torchrun describes in the environment (NCCL on GPUs, gloo on CPUs).

    Started without torchrun, the process is a world of one and no group is made.

    Raises:
        UserError: if there are GPUs, but fewer than processes.
        SystemExit: if a process of the group is gone; this one has said so.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = own_device()
    if size == 1:
        yield World(rank=0, size=1, device=device)
        return
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        timeout=datetime.timedelta(minutes=timeout_minutes),
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield World(rank=rank, size=size, device=device)
    except RuntimeError as error:
        # PyTorch has no class of its own for the errors of gloo.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            # Said here: torchrun ends this process soon, maybe while the group is destroyed.
            log.error(
                "process %d of %d lost contact with the others (%s); the first one that failed is named below by"
                " torchrun. Saved states are intact: run the same command again to go on",
                rank, size, str(error).splitlines()[0],
            )  # fmt: skip
            raise SystemExit(1) from error
        raise
    finally:
        dist.destroy_process_group()


def own_device() -> torch.device:
    """Take the GPU of this process's number on its node, or the CPU where there are none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if processes > gpus:
        raise UserError(
            f"execution.processes: {processes} processes were started on {socket.gethostname()}, which has {gpus}"
            f" GPUs for this job; every process needs one of its own: set execution.processes to {gpus}, or"
            f" resources.*.gpus to {processes} where the cluster has them"
        )
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
