"""What tests of several directories share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from outrider_testing.fakes import ManualLoop


@pytest.fixture
def loop() -> Iterator[ManualLoop]:
    """A loop that the test runs by hand; nothing may have gone to its exception handler."""
    loop = ManualLoop()
    yield loop
    loop.close()
    assert loop.unhandled == []
