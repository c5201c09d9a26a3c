"""The cluster, and checkouts whose data, encoder and latent statistics are made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, ClusterError
from tests.slurm.workspace import WEIGHTS, Workspace
from tests.workflow.conftest import copy_checkout

INPUTS = (
    "results/demo/latents/siglip2-b-single.safetensors",
    "results/demo/decoders/siglip2-b.safetensors",
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Start the cluster, and remove every trace of it at the end."""
    cluster = Cluster()
    try:
        cluster.up()
    except ClusterError as error:
        pytest.exit(str(error), returncode=1)
    yield cluster
    cluster.down()


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a checkout in which the row was trained here, by two processes, without any interruption."""
    workspace = Workspace(copy_checkout(tmp_path_factory.mktemp("reference")).folder)
    workspace.settle()
    run = workspace.local("--cores", "2", "--", *INPUTS, WEIGHTS)
    assert run.returncode == 0, run.stdout[-5000:]
    return workspace


@pytest.fixture
def workspace(reference: Workspace, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Return a copy of the reference in which the row is not yet trained; afterwards nothing of it runs on."""
    copy = reference.copy(tmp_path_factory.mktemp("workspace") / "checkout")
    copy.forget_training()
    yield copy
    cluster.clear()
    copy.close()
