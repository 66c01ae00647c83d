"""What tests of the supervisor's decisions share."""

from __future__ import annotations

import pytest

from outrider_testing.fakes.supervised_service import FakeService


@pytest.fixture
def service() -> FakeService:
    """Four workers serve."""
    return FakeService(workers=4).serve()
