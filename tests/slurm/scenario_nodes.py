"""What happens when a node fails: the job goes on elsewhere."""

from __future__ import annotations

import shutil

from tests.slurm.cluster import Cluster
from tests.slurm.workspace import EPOCH, ROW, WEIGHTS, Workspace, node

SAMPLES = f"results/demo/rows/{ROW}/epoch-{EPOCH}/unguided-seed0/samples.npz"
SHARDS = f"results/demo/rows/{ROW}/epoch-{EPOCH}/unguided-seed0/shards"


def test_training_survives_its_node(workspace: Workspace, reference: Workspace, cluster: Cluster) -> None:
    run = workspace.submit(WEIGHTS)
    job = run.job()
    run.until(lambda: workspace.starts() == 1 and saved(workspace), "training does not start")
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


def saved(workspace: Workspace) -> bool:
    """Whether there is a training state."""
    return workspace.run_folder is not None and any(workspace.run_folder.glob("state-*.pt"))
