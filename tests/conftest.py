"""What tests of several directories share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from outrider_testing.fakes import ManualLoop


def pytest_collection_finish() -> None:
    """Have the garbage collector leave alone what the collection of thousands of tests has made.

    Each collection in a test would walk over all of it, and one in a forked worker would copy all of its memory.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def loop() -> Iterator[ManualLoop]:
    """A loop that the test runs by hand; nothing may have gone to its exception handler."""
    loop = ManualLoop()
    yield loop
    loop.close()
    assert loop.unhandled == []
