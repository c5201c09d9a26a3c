"""The cluster, its lanes, and checkouts whose data, encoder and latent statistics are made.

Every scenario has a worker process of pytest-xdist of its own, and waits there for a lane.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Generator, Iterator

import pytest
from filelock import FileLock, Timeout

from tests.slurm.cluster import Cluster, Lane
from tests.slurm.host import ClusterError, UnavailableError
from tests.slurm.workspace import DECODER, HERE, STATISTICS, WEIGHTS, Workspace
from tests.workflow.conftest import TINY, copy_checkout

WORKER = "PYTEST_XDIST_WORKER"
CHECKOUTS = Cluster.folder / "checkouts"
CALM = "calm"
"""The partition of the scenarios that need no lane."""


def pytest_configure() -> None:
    """Clean up after SIGTERM as after Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the cluster, before there are workers; every trace of it is removed when they have ended."""
    if WORKER in os.environ:
        return
    stack = contextlib.ExitStack()
    session.config.add_cleanup(stack.close)
    try:
        stack.enter_context(Cluster().running())
    except UnavailableError as error:
        pytest.exit(f"no SLURM for tests on this host: {error}", returncode=0)
    except ClusterError as error:
        pytest.exit(str(error), returncode=1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the demo, the rehearsal and the trainings, which take longest."""
    order = ("scenario_demo.py", "scenario_training.py")
    items.sort(key=lambda item: order.index(item.path.name) if item.path.name in order else len(order))


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """Return the running cluster."""
    return Cluster()


def checkout(name: str, partition: str, *overlays: str) -> Workspace:
    """Return a checkout in which nothing is made yet."""
    workspace = Workspace(copy_checkout(CHECKOUTS / name).folder, (*overlays, f"{HERE}/gpus.yaml"))
    workspace.settle(partition)
    return workspace


@pytest.fixture
def demo(cluster: Cluster) -> Iterator[Workspace]:
    """Return a checkout for the whole tiny demo, two rows of it, on nodes of its own."""
    with FileLock(cluster.folder / CALM):
        yield checkout("demo", CALM, *TINY, f"{HERE}/two_rows.yaml")


@pytest.fixture
def lane(cluster: Cluster) -> Iterator[Lane]:
    """Wait for a lane; those that begin with the session take them in the order of the scenarios."""
    time.sleep(int(re.sub(r"\D", "", os.environ.get(WORKER, "0"))))
    for number in itertools.cycle(range(cluster.lanes)):
        with contextlib.suppress(Timeout), FileLock(cluster.folder / f"lane{number}", timeout=0.3):
            yield Lane(cluster, number)
            return


@pytest.fixture
def rehearsal(lane: Lane) -> Workspace:
    """Return a checkout for a rehearsal."""
    profiles = (f"profiles/{name}/config-overlay.yaml" for name in ("demo", "rehearsal"))
    return checkout("rehearsal", lane.low, *profiles, f"{HERE}/rehearsal.yaml")


@pytest.fixture(scope="session")
def reference(cluster: Cluster) -> Workspace:
    """Return a checkout in which the row was trained here, by two processes, without any interruption."""
    folder = CHECKOUTS / "reference"
    with FileLock(cluster.folder / "reference"):
        if not folder.exists():
            workspace = Workspace(copy_checkout(folder.with_name("unfinished")).folder)
            run = workspace.local("--cores", "2", "--", STATISTICS, DECODER, WEIGHTS)
            assert run.returncode == 0, run.stdout[-5000:]
            workspace.folder.rename(folder)
    return Workspace(folder)


@pytest.fixture
def alone(cluster: Cluster, reference: Workspace) -> Iterator[None]:
    """Wait until no other scenario is left, and begin none meanwhile."""
    locks = [FileLock(cluster.folder / name) for name in (CALM, *(f"lane{number}" for number in range(cluster.lanes)))]
    while True:
        with contextlib.suppress(Timeout), contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock.acquire(timeout=0))
            yield
            return
        time.sleep(1)


@pytest.fixture
def decoding(reference: Workspace, alone: None, request: pytest.FixtureRequest) -> Iterator[Workspace]:
    """Return a copy of the reference in which the decoder is not yet made."""
    copy = reference.copy(CHECKOUTS / request.node.name)
    copy.settle(CALM)
    (copy.folder / DECODER).unlink()
    yield copy
    copy.abandon()
    copy.close()


@pytest.fixture
def workspace(reference: Workspace, lane: Lane, request: pytest.FixtureRequest) -> Iterator[Workspace]:
    """Return a copy of the reference in which the row is not yet trained; afterwards nothing of it runs on."""
    copy = reference.copy(CHECKOUTS / request.node.name)
    copy.settle(lane.low)
    copy.forget_training()
    with contextlib.ExitStack() as stack:
        stack.callback(copy.close)
        stack.callback(lane.clear)
        stack.callback(copy.abandon)
        yield copy


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a failed scenario logged, because its files will be gone."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Workspace):
                report.sections += value.ends()
    return report
