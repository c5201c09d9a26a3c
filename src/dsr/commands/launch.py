"""Run a command in one or more processes.

Outside SLURM this becomes the command (or its torchrun). In a SLURM job it stays, and requeues the job when it is
stopped. It needs no PyTorch.
"""

import argparse
import os
import sys
from pathlib import Path

from dsr.base.command import examples, logged, module
from dsr.launch.slurm import SlurmJob, command_line, preempt_once, supervise


def main() -> None:
    """Exit with the command's code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module()}",
        description=__doc__,
        epilog=examples(),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, default=1, help="processes per node")
    parser.add_argument("--state", type=Path, help="folder that the command goes on from; without it, never requeue")
    parser.add_argument("--preempt-once", action="store_true", help="rehearse: stop the first start after a few steps")
    parser.add_argument("module", help="module of the command")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the command's own arguments")
    arguments = parser.parse_args()
    with logged():
        job = SlurmJob.current()
        command = command_line(arguments.module, arguments.arguments, arguments.processes, job)
        if arguments.preempt_once and (job is None or job.node == 0):
            preempt_once(arguments.state)
        if job is None:
            os.execv(command[0], command)
        sys.exit(supervise(command, job, arguments.state))


if __name__ == "__main__":
    main()
