"""What the tests of deploy/systemd share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from outrider_testing.systemd import Machine
from outrider_testing.systemd_services import Service, booted


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """This Debian's systemd, booted."""
    with booted() as booted_machine:
        yield booted_machine


@pytest.fixture
def journal(machine: Machine) -> Iterator[None]:
    """Print it, which is shown for a test that has failed."""
    yield
    print(machine.journal(lines=200))


@pytest.fixture(scope="module")
def shop(machine: Machine) -> Service:
    """A service that runs; tests leave it serving with two workers."""
    service = Service(machine, "shop", config="canary_seconds = 0\n")
    service.start()
    return service
