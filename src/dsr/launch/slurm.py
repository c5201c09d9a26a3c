"""The SLURM job that this process is part of: its processes, which get as long as they need to stop; and requeueing.

And what is looked at before the first job is submitted.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr.base import files
from dsr.base.errors import EXIT_STOPPED, UserError
from dsr.base.programs import output_of

FRUITLESS_STARTS = 5
"""Starts in a row that may end without a new file; a preemption or a failing node during start-up is no fault."""
END_SECONDS = 300
"""A requeued job is ended by SLURM within seconds; after this long something is wrong."""
PAUSES = (0.0, 1.0, 5.0, 15.0)
"""Seconds to wait before each try to reach the controller."""

POLL_SECONDS = 0.5
STEPS = 4
"""Steps that a training job of a rehearsal reports before it is told to stop."""
TORCHRUN = "torch.distributed.run"

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
    def current(cls, environment: Mapping[str, str] = os.environ) -> "SlurmJob | None":
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
        return 20000 + int(self.id) % 10000

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


@dataclass(frozen=True)
class Attempts:
    """Count of a job's fruitless starts, kept beside its state.

    Progress is a new name among the files of the state's folder: a later checkpoint, one more shard of images.
    """

    state: Path

    @property
    def path(self) -> Path:
        """File of the count."""
        return self.state / "starts.json"

    def begin(self, job: str) -> bool:
        """Count a start of ``job``; another job number begins from zero.

        Returns:
            Whether it may start: not if so many starts before it were fruitless. SLURM itself requeues a job whose
            node fails, as often as that happens, even if it is the job that brings the node down.
        """
        last, names = self._read(), self._names()
        count = last["fruitless"] + 1 if (last.get("job"), last.get("names")) == (job, names) else 0
        files.write_json(self.path, {"job": job, "names": names, "fruitless": count})
        return count < FRUITLESS_STARTS

    def end(self) -> None:
        """Forget the starts of a job that is done, and the state's folder if nothing else is in it."""
        self.path.unlink(missing_ok=True)
        if self.state.is_dir() and not any(self.state.iterdir()):
            self.state.rmdir()

    def may_continue(self) -> bool:
        """Whether this start, or one of the few before it, made progress."""
        last = self._read()
        return last.get("names") != self._names() or last["fruitless"] + 1 < FRUITLESS_STARTS

    def _read(self) -> dict[str, Any]:
        return dict(files.read_json(self.path)) if self.path.exists() else {}

    def _names(self) -> list[str]:
        """Names of the files in the state's folder."""
        return sorted(entry.name for entry in self.state.glob("[!.]*") if entry != self.path)


def supervise(command: Sequence[str], job: SlurmJob, state: Path | None) -> int:
    """Run ``command`` in a job; if it was stopped (preemption, time limit), put the job back into the queue.

    A stopped command that finished nevertheless, or failed by itself, ends the job with its own exit code. So does one
    without a ``state`` folder to go on from, and one that was stopped again and again without progress in it.

    Returns:
        Exit code for the job; after a requeue the call does not return before SLURM ends the process.
    """
    attempts = None if state is None else Attempts(state)
    if attempts is not None and job.node == 0 and not attempts.begin(job.id):
        log.error("Started %d times in a row without a new file in %s: giving up", FRUITLESS_STARTS, state)
        return 1
    code, asked = run(command)
    if code == 0 and attempts is not None and job.node == 0:
        attempts.end()
    stopped = code == EXIT_STOPPED or (asked and code != 0)
    if not stopped or attempts is None:
        return code
    if job.node > 0:
        # The first node decides; leaving before it would make the job fail.
        time.sleep(END_SECONDS)
    elif not attempts.may_continue():
        log.error("Stopped %d times in a row without a new file in %s: giving up", FRUITLESS_STARTS, state)
    elif (found := job.state()) not in (None, "RUNNING"):
        log.warning("Job %s is no longer running but %s (cancelled, or already requeued); leaving", job.id, found)
    elif not job.requeue():
        log.error("SLURM does not requeue job %s; Snakemake submits it again, or run the same command", job.id)
    else:
        log.warning("Job %s is requeued and will go on from %s", job.id, state)
        time.sleep(END_SECONDS)
    return code


def run(command: Sequence[str]) -> tuple[int, bool]:
    """Run ``command`` and pass a SIGTERM on to the processes that it started, however deep.

    The command inherits a blocked SIGTERM. That makes torchrun deaf to it, which would otherwise kill its workers 30
    seconds later, possibly in the middle of a checkpoint; the workers unblock it (`dsr.base.command`).

    Returns:
        Exit code as a shell reports it, and whether this process received SIGTERM while the command ran.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # In cluster jobs it comes ignored (rules/common.smk), and what is ignored may never become pending.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    asked = False
    with subprocess.Popen(command) as child:
        while child.poll() is None:
            if _received_sigterm(POLL_SECONDS):
                asked = True
                for pid in (told := descendants(child.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
                # A torchrun that still waits for another node has no worker who would end it.
                if told == [child.pid] and TORCHRUN in command:
                    child.kill()
    # The signal may have reached the command first.
    asked = asked or (child.returncode != 0 and _received_sigterm(2 * POLL_SECONDS))
    return child.returncode if child.returncode >= 0 else 128 - child.returncode, asked


def descendants(pid: int) -> list[int]:
    """Process ids of a process, its children, and theirs; torchrun's workers are in sessions of their own."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses may contain blanks; the parent is the second field after it.
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for process in found:
        found += children.get(process, ())
    return found


def _received_sigterm(seconds: float) -> bool:
    return signal.sigtimedwait({signal.SIGTERM}, seconds) is not None


def preempt_once(state: Path) -> None:
    """Let a process beside this one send SIGTERM to it, or to what it becomes, once training has done a few steps.

    Only the first start of a rehearsal is stopped: a record in the folder ``state`` is from an earlier one.
    """
    record, process = state / "metrics.jsonl", os.getpid()
    if record.exists() or os.fork():
        return
    while os.getppid() == process:
        if record.exists() and len(files.read_json_lines(record)) >= STEPS:
            # In a SLURM job the launcher passes it on. Elsewhere torchrun would kill its workers after 30 seconds.
            for pid in [process] if SlurmJob.current() else descendants(process):
                with contextlib.suppress(OSError):
                    if pid != os.getpid() and TORCHRUN.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGTERM)
            break
        time.sleep(0.1)
    os._exit(0)


def check_submission(workflow: Any) -> None:
    """Refuse what Snakemake's SLURM plugin would refuse or lose without a word: do what it does before it calls sbatch.

    It submits from a thread whose errors nobody sees: Snakemake would wait for ever for jobs that do not exist.

    Raises:
        UserError: with the plugin's reason.
    """
    if workflow.executor_plugin.name != "slurm":
        return
    from snakemake_executor_plugin_slurm import get_submit_command, set_gres_string, validate_slurm_extra
    from snakemake_executor_plugin_slurm.job_status_query import get_min_job_age
    from snakemake_interface_common.exceptions import WorkflowError

    settings = workflow.executor_settings
    age, needed = get_min_job_age(), 3 * settings.init_seconds_before_status_checks
    if (age is None or age < needed) and output_of("sacct", "--noheader") is None:
        raise UserError(
            f"SLURM forgets finished jobs after {age} s (MinJobAge), sooner than Snakemake may look ({needed} s), and"
            " sacct does not answer either. Ask the cluster's administrators for one of the two"
        )
    jobs = {job.rule.name: job for job in workflow.dag.needrun_jobs() if not job.is_local}
    for rule, job in jobs.items():
        executor = workflow.scheduler.get_executor(job)
        try:
            validate_slurm_extra(job)
            chosen = {"account": next(executor.get_account_arg(job)), "partition": executor.get_partition_arg(job)}
            about = dict.fromkeys(("run_uuid", "slurm_logfile", "comment_str", "workdir"), "")
            get_submit_command(job, chosen | about, settings=settings)
            set_gres_string(job)
        except (WorkflowError, OSError, subprocess.SubprocessError) as error:
            raise UserError(f"rule {rule} cannot be submitted to SLURM: {error}") from error
