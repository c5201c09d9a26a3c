"""The SLURM job that this process is part of: whether it still runs, and how it goes back into the queue."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

FIRST_PORT, PORTS = 20000, 10000
"""Range of the port where the processes of several nodes meet; the job's number chooses one."""
PAUSES = (0.0, 1.0, 5.0, 15.0)
"""Seconds to wait before each try to reach the controller."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlurmJob:
    """A job, seen from one of its nodes."""

    id: str
    nodes: int
    """Nodes that run this command."""
    node: int
    """This node's number, from 0."""
    address: str
    """Address of the node that started the others."""

    @classmethod
    def current(cls, environment: Mapping[str, str] = os.environ) -> SlurmJob | None:
        """Find the job around this process; None outside SLURM.

        Only steps (`srun`) count: a Snakemake that computes inside someone's own batch job must not requeue that.
        """
        if "SLURM_STEP_ID" not in environment:
            return None
        return cls(
            id=environment["SLURM_JOB_ID"],
            nodes=int(environment.get("SLURM_STEP_NUM_NODES", "1")),
            node=int(environment.get("SLURM_NODEID", "0")),
            address=environment.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"),
        )

    @property
    def port(self) -> int:
        """Port on ``address`` where the nodes' processes meet."""
        return FIRST_PORT + int(self.id) % PORTS

    def state(self) -> str | None:
        """State of the job as the controller has it; None if there is no answer."""
        answer = _call("squeue", "--noheader", "--jobs", self.id, "--format", "%T")
        return None if answer is None else answer.strip()

    def requeue(self) -> bool:
        """Ask the controller to end this job and start it again under the same number; False if it refuses."""
        return _call("scontrol", "requeue", self.id) is not None


def _call(*command: str) -> str | None:
    """Output of a SLURM command, tried several times because controllers are busy; None if it fails."""
    for pause in PAUSES:
        time.sleep(pause)
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("%s: %s", " ".join(command), getattr(error, "stderr", None) or error)
    return None
