"""What happens to a training job: whatever it is, the weights are those of an uninterrupted run, bit for bit."""

from __future__ import annotations

import subprocess

from tests.slurm.cluster import Lane
from tests.slurm.host import wait
from tests.slurm.workspace import HERE, OVERLAYS, WEIGHTS, Workspace, state


def test_preempted_twice_and_out_of_time_once(workspace: Workspace, reference: Workspace, lane: Lane) -> None:
    run = workspace.submit(WEIGHTS)
    job = run.job()
    run.until(lambda: workspace.starts() == 1, "training does not start")
    workspace.interrupt(lane.preempt)
    run.until(lambda: workspace.starts() == 2, "training does not go on after a preemption")
    workspace.interrupt(lane.preempt)
    run.until(lambda: workspace.starts() == 3, "training does not go on after two preemptions")
    # Now less is left than the two minutes of notice that the profile asks for.
    workspace.interrupt(lambda: update(job, "TimeLimit=2"))
    run.until(lambda: state(job) == "PENDING", "the time limit does not requeue the job")
    update(job, "TimeLimit=30")
    assert run.finish() == 0, run.log
    assert run.jobs() == [job]
    assert workspace.starts() == 4
    assert workspace.training_log().count(f"Job {job} is requeued") == 3
    assert workspace.weights() == reference.weights()


def test_two_nodes_preempted_once(workspace: Workspace, reference: Workspace, lane: Lane) -> None:
    workspace.overlays = (*OVERLAYS, f"{HERE}/two_nodes.yaml")
    run = workspace.submit(WEIGHTS)
    run.until(lambda: workspace.starts() == 1, "training does not start")
    workspace.interrupt(lane.preempt)
    assert run.finish() == 0, run.log
    assert len(run.jobs()) == 1
    assert workspace.starts() == 2
    assert workspace.weights() == reference.weights()


def test_a_cancelled_job_is_reported_and_the_same_command_goes_on(workspace: Workspace, reference: Workspace) -> None:
    run = workspace.submit("--retries", "0", WEIGHTS)
    run.until(lambda: workspace.starts() == 1, "training does not start")
    workspace.interrupt(lambda: subprocess.run(["scancel", run.job()], check=True))
    assert run.finish() == 1
    assert "SLURM status is: 'CANCELLED'" in run.log
    steps = workspace.metrics()[-1]["step"]

    again = workspace.submit(WEIGHTS)
    assert again.finish() == 0, again.log
    assert min(line["step"] for line in workspace.metrics() if line["restart"] == 1) > steps
    assert workspace.weights() == reference.weights()


def test_a_killed_snakemake_never_leads_to_two_trainers(workspace: Workspace, reference: Workspace) -> None:
    first = workspace.submit(WEIGHTS)
    job = first.job()
    first.until(lambda: workspace.starts() == 1, "training does not start")
    with workspace.paused():
        first.kill()
        # The mistake: to go on as if the job had died with Snakemake. The second trainer refuses to start.
        assert workspace.local("--unlock").returncode == 0
        second = workspace.submit("--retries", "0", WEIGHTS)
        assert second.finish() == 1
        assert workspace.training_log().count("another trainer is using") == 1
        assert workspace.starts() == 1
        assert state(job) == "RUNNING"
    # What docs/cluster.md says: cancel what is left, wait for its end, and give the same command again.
    workspace.interrupt(lambda: subprocess.run(["scancel", job], check=True))
    wait(lambda: state(job) == "CANCELLED", "the orphan does not end")
    assert workspace.local("--unlock").returncode == 0
    third = workspace.submit(WEIGHTS)
    assert third.finish() == 0, third.log
    assert workspace.starts() == 2
    assert workspace.weights() == reference.weights()


def update(job: str, setting: str) -> None:
    """Change a setting of a job."""
    subprocess.run(["scontrol", "update", f"JobId={job}", setting], check=True)
