"""Fixtures that start real servers."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Raise the soft limit of open files to the hard one: thousands of client sockets need it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
