"""The cluster, checkouts whose data, encoder and latent statistics are made, and a table of the scenarios."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Generator, Iterator

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.host import ClusterError, UnavailableError
from tests.slurm.workspace import DECODER, HERE, STATISTICS, WEIGHTS, Workspace
from tests.workflow.conftest import TINY, copy_checkout

CHECKOUTS = Cluster.folder / "checkouts"
OUTCOMES = pytest.StashKey[dict[str, tuple[str, float]]]()
"""Outcome and seconds of every row of the table."""


def pytest_configure(config: pytest.Config) -> None:
    """Clean up after SIGTERM as after Ctrl-C."""
    config.stash[OUTCOMES] = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Start the cluster, and remove every trace of it at the end."""
    with contextlib.ExitStack() as stack:
        begun = time.monotonic()
        try:
            cluster = stack.enter_context(Cluster().running())
        except UnavailableError as error:
            pytest.skip(f"no SLURM for tests on this host: {error}")
        except ClusterError as error:
            pytest.exit(str(error), returncode=1)
        request.config.stash[OUTCOMES]["(before: the cluster)"] = ("", time.monotonic() - begun)
        yield cluster


@pytest.fixture(scope="session")
def demo(cluster: Cluster) -> Workspace:
    """Return a checkout in which the whole tiny demo is being made, on nodes of its own, all the while."""
    workspace = Workspace(copy_checkout(CHECKOUTS / "demo").folder, overlays=(*TINY, f"{HERE}/gpus.yaml"))
    workspace.settle(partition="calm")
    workspace.submit("--jobs", "6")
    return workspace


@pytest.fixture(scope="session")
def reference(cluster: Cluster, request: pytest.FixtureRequest) -> Workspace:
    """Return a checkout in which the row was trained here, by two processes, without any interruption."""
    if any("demo" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("demo")
    begun = time.monotonic()
    workspace = Workspace(copy_checkout(CHECKOUTS / "reference").folder)
    workspace.settle()
    run = workspace.local("--cores", "2", "--", STATISTICS, DECODER, WEIGHTS)
    assert run.returncode == 0, run.stdout[-5000:]
    request.config.stash[OUTCOMES]["(before: the uninterrupted training)"] = ("", time.monotonic() - begun)
    return workspace


@pytest.fixture
def workspace(reference: Workspace, cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Workspace]:
    """Return a copy of the reference in which the row is not yet trained; afterwards nothing of it runs on."""
    copy = reference.copy(CHECKOUTS / request.node.name)
    copy.forget_training()
    with contextlib.ExitStack() as stack:
        stack.callback(copy.close)
        stack.callback(cluster.clear)
        stack.callback(copy.abandon)
        yield copy


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fill in the table; show what a failed scenario logged, because its files will be gone."""
    report = yield
    outcomes = item.config.stash[OUTCOMES]
    name = item.name.removeprefix("test_").replace("_", " ")
    # What the scenarios share is set up during the first, and has rows of its own.
    if call.when != "setup" or not report.passed:
        outcome, seconds = outcomes.get(name, ("passed", 0.0))
        measured = dict(item.user_properties).get("seconds")
        seconds = measured if isinstance(measured, int) else seconds + report.duration
        outcomes[name] = (outcome if report.passed else report.outcome, seconds)
    used = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Workspace)]
    if report.failed:
        for workspace in used:
            report.sections += workspace.ends()
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    outcomes = config.stash[OUTCOMES]
    if not outcomes:
        return
    width = max(map(len, outcomes))
    terminalreporter.section("scenarios")
    for name, (outcome, seconds) in outcomes.items():
        terminalreporter.write_line(f"{name:{width}}  {outcome:7}  {seconds:5.0f} s")
