"""Processes of a command: one, several on this node, or several on each node of a SLURM job."""

import sys
from collections.abc import Sequence

from dsr.launch.child import TORCHRUN
from dsr.launch.slurm import SlurmJob


def command_line(module: str, arguments: Sequence[str], processes: int, job: SlurmJob | None) -> list[str]:
    """Return the command that runs ``python -m module arguments`` in ``processes`` processes per node."""
    if job is not None and job.nodes > 1:
        place = ["--nnodes", f"{job.nodes}", "--node-rank", f"{job.node}"]
        place += ["--master-addr", job.address, "--master-port", f"{job.port}"]
    elif processes > 1:
        # Else it looks up the host's own name, and waits minutes where that does not resolve.
        place = ["--standalone", "--local-addr", "127.0.0.1"]
    else:
        return [sys.executable, "-m", module, *arguments]
    torchrun = [sys.executable, "-m", TORCHRUN, *place, "--nproc-per-node", f"{processes}"]
    # Without the two dashes torchrun looks for its own options among the command's, and finds `--run` ambiguous.
    return [*torchrun, "-m", "--", module, *arguments]
