"""What tests of the supervisor's decisions share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from outrider_testing.fakes.supervised_service import FakeService
from outrider_testing.listener_stage import ListenerStage


@pytest.fixture
def service() -> FakeService:
    """Four workers serve."""
    return FakeService(workers=4).serve()


@pytest.fixture
def listening() -> Iterator[ListenerStage]:
    """Listeners of a supervisor, closed afterwards."""
    stage = ListenerStage()
    yield stage
    stage.listeners.close_all()
