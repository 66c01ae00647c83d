"""Fixtures that start real servers."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_testing import releases
from outrider_testing.fake_supervisor import FakeSupervisor, MakeSupervisor, making_supervisors
from outrider_testing.launchers import BUSY_MACHINE
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.serving import Serve, Supervise, serving, supervising


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers that end with the test."""
    with serving(tmp_path) as start:
        yield start


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    """Start supervisors that end with the test."""
    with supervising(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def serve_for_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start servers that serve all tests of a module."""
    with serving(tmp_path_factory.mktemp("module")) as start:
        yield start


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutriderProcess]:
    """A service with two workers for all the tests that leave it as it was."""
    with supervising(tmp_path_factory.mktemp("service")) as supervise:
        server = supervise(workers=2)
        before = server.workers()
        yield server
        server.wait_until_settled(2, generation=1)
        assert server.workers() == before


@pytest.fixture(scope="session")
def _changing_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutriderProcess]:
    with supervising(tmp_path_factory.mktemp("changing")) as supervise:
        yield supervise(workers=2, config="canary = False", launcher=BUSY_MACHINE)


@pytest.fixture
def changing(_changing_service: OutriderProcess) -> OutriderProcess:
    """A service with two workers for the tests that put others into their place; its generation may be any."""
    server = _changing_service
    for pattern in ("go", "*.held", "*.open"):
        for path in server.directory.glob(pattern):
            path.unlink()
    releases.deploy(server.directory, releases.good(1))
    if not server.is_settled(2):
        server.scale(2).check()
        server.wait_until_settled(2)
    return server


@pytest.fixture
def make_supervisor(tmp_path: Path) -> Iterator[MakeSupervisor]:
    """Make the supervisor's end of masters, which leaves nothing behind."""
    with making_supervisors(tmp_path) as make:
        yield make


@pytest.fixture
def supervisor(make_supervisor: MakeSupervisor) -> FakeSupervisor:
    """The supervisor's end of one master."""
    return make_supervisor()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Raise the soft limit of open files to the hard one: thousands of client sockets need it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
