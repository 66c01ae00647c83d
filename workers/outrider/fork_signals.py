"""Signals around a fork: to a worker that has no handlers yet, and to processes that the application forks."""

from __future__ import annotations

import os
import queue
import signal
import threading
from contextlib import suppress
from functools import partial

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

_held = threading.local()


def signals_since_fork(arbiter: object) -> set[int]:
    """Signals that came between the fork and now: the inherited handler put them where nobody reads them."""
    signals: set[int] = set()
    if isinstance(arbiter, Arbiter):
        with suppress(queue.Empty):
            while True:
                signals.add(arbiter.SIG_QUEUE.get_nowait())
    return signals


def keep_handlers_from_forks(module: str) -> None:
    """Have processes that the application forks from now on take signals as Python does; its own handlers stay.

    With a worker's handlers they would ignore the SIGTERM of `multiprocessing.Process.terminate()`, and a worker that
    waits for them at its exit would never end.

    Args:
        module: where the worker's handlers are from.
    """
    modules = frozenset({module, Worker.__module__})
    os.register_at_fork(
        before=partial(_hold_signals, modules), after_in_parent=_let_signals_through, after_in_child=_forget_handlers
    )


def _hold_signals(modules: frozenset[str]) -> None:
    """Those that the child must not take before it has forgotten their handlers."""
    _held.numbers = [each for each in Worker.SIGNALS if getattr(signal.getsignal(each), "__module__", "") in modules]
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _held.numbers)


def _let_signals_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _forget_handlers() -> None:
    for number in _held.numbers:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _let_signals_through()
