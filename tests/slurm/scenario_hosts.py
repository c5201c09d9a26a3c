"""What happens when the controller, which no other scenario may need meanwhile, or a node fails."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time

from tests.processes import stand_in
from tests.slurm.cluster import Cluster
from tests.slurm.host import wait
from tests.slurm.workspace import DECODER, EPOCH, ROW, WEIGHTS, Submission, Workspace, node, state

MODULE = "dsr.commands.demo"
AWAY = 75
"""Seconds that the controller is away: longer than the plugin's own five attempts take at the profile's pace."""
SAMPLES = f"results/demo/rows/{ROW}/epoch-{EPOCH}/unguided-seed0/samples.npz"
SHARDS = f"results/demo/rows/{ROW}/epoch-{EPOCH}/unguided-seed0/shards"


def submit(workspace: Workspace) -> tuple[Submission, str]:
    """Submit the job of the decoder, and wait until it works."""
    run = workspace.submit(DECODER)
    job = run.job()
    run.until(lambda: bool(workspace.workers(MODULE)), "the job does not start")
    return run, job


def test_a_job_that_ends_while_the_controller_is_away_is_noticed(decoding: Workspace, cluster: Cluster) -> None:
    # As on a host without accounting: the plugin has nothing but squeue.
    stand_in(decoding.folder / "bin/which", '[ "$1" != sacct ] && command -v "$1"')
    run, job = submit(decoding)
    with contextlib.ExitStack() as stack:
        with decoding.paused(MODULE):
            stack.enter_context(cluster.controller_away())
        wait(lambda: not decoding.workers(MODULE), "the job does not end")
        time.sleep(AWAY)
        assert run.process.poll() is None
    assert run.finish() == 0, run.log
    assert run.jobs() == [job]


def test_a_job_that_slurm_has_forgotten_between_two_looks_is_noticed(decoding: Workspace, cluster: Cluster) -> None:
    ended = f"{cluster.folder}/log/ended"
    stand_in(decoding.folder / "bin/sacct", f"sed -nE 's/^JobId=([0-9]+) .*JobState=([A-Z_]+) .*/\\1|\\2/p' {ended}")
    with cluster.forgetful(10):
        run, job = submit(decoding)
        run.process.send_signal(signal.SIGSTOP)
        wait(lambda: state(job) == "", "SLURM does not forget the job")
        run.process.send_signal(signal.SIGCONT)
        assert run.finish() == 0, run.log
    assert run.jobs() == [job]


def test_training_survives_its_node(workspace: Workspace, reference: Workspace, cluster: Cluster) -> None:
    run = workspace.submit(WEIGHTS)
    job = run.job()
    run.until(lambda: workspace.starts() == 1 and any(workspace.training("state-*.pt")), "training does not start")
    lost = node(job)
    workspace.interrupt(lambda: cluster.fail_node(lost))
    run.until(lambda: workspace.starts() == 2, "training does not go on")
    assert node(job) not in ("", lost)
    assert run.finish() == 0, run.log
    assert run.jobs() == [job]
    assert workspace.weights() == reference.weights()


def test_sampling_survives_its_node(workspace: Workspace, reference: Workspace, cluster: Cluster) -> None:
    undisturbed = reference.copy(workspace.folder / "undisturbed")
    (workspace.folder / WEIGHTS).parent.mkdir(parents=True)
    shutil.copy(reference.folder / WEIGHTS, workspace.folder / WEIGHTS)
    expected = undisturbed.local("--cores", "2", "--allowed-rules", "sample", "--", SAMPLES)
    assert expected.returncode == 0, expected.stdout[-5000:]
    run = workspace.submit("--allowed-rules", "sample", "--", SAMPLES)
    job, shards = run.job(), workspace.folder / SHARDS
    run.until(lambda: len(list(shards.glob("shard-*"))) >= 4, "sampling does not start")
    with workspace.paused("dsr.commands.sample"):
        cluster.fail_node(node(job))
    kept = {path.name: path.stat().st_mtime_ns for path in shards.glob("shard-*")}
    assert len(kept) < 20
    run.until(lambda: len(list(shards.glob("shard-*"))) > len(kept), "sampling does not go on")
    assert {name: (shards / name).stat().st_mtime_ns for name in kept} == kept
    assert run.finish() == 0, run.log
    assert run.jobs() == [job]
    assert (workspace.folder / SAMPLES).read_bytes() == (undisturbed.folder / SAMPLES).read_bytes()
