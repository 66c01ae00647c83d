"""Signals to a process that was just forked."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable, Iterator

import pytest
from gunicorn.arbiter import Arbiter

from outrider.fork_signals import signals_since_fork
from outrider_testing.waiting import until

ATTEMPTS = 3


@pytest.fixture
def arbiter() -> Iterator[Arbiter]:
    """gunicorn's, as far as its signals go."""
    arbiter = Arbiter.__new__(Arbiter)
    arbiter.SIG_QUEUE = queue.SimpleQueue()
    before = signal.signal(signal.SIGTERM, arbiter.signal)
    yield arbiter
    signal.signal(signal.SIGTERM, before)


def exit_code_after_sigterm(child: Callable[[], int]) -> int:
    """Fork, send SIGTERM before the child has run, and return how it ends."""
    pid = os.fork()
    if not pid:
        os._exit(child())
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_signal_reaches_a_worker_that_was_just_forked(arbiter: Arbiter) -> None:
    def child() -> int:
        try:
            until(lambda: signals_since_fork(arbiter) == {signal.SIGTERM}, 5.0)
        except TimeoutError:
            return 1
        return 0

    assert [exit_code_after_sigterm(child) for _ in range(ATTEMPTS)] == [0] * ATTEMPTS
    assert signals_since_fork(arbiter) == set()


def test_signal_is_not_held_in_the_parent(arbiter: Arbiter) -> None:
    exit_code_after_sigterm(lambda: 0)
    os.kill(os.getpid(), signal.SIGTERM)
    until(lambda: signals_since_fork(arbiter) == {signal.SIGTERM})
