"""Signals around a fork: none is lost on its way to a worker, and the application's own forks don't have its handlers.

Python forgets in a child what arrived before the child ran (`_PySignal_AfterFork`): a SIGTERM to a worker that was just
forked would be lost, and the worker would serve on. So the kernel holds signals until the child can take them.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from contextlib import suppress

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

_WORKER_MODULES = frozenset({"outrider.worker", Worker.__module__})
_held = threading.local()


def signals_since_fork(arbiter: object) -> set[int]:
    """Signals that came between the fork and now: the inherited handler put them where nobody reads them."""
    signals: set[int] = set()
    if isinstance(arbiter, Arbiter):
        with suppress(queue.Empty):
            while True:
                signals.add(arbiter.SIG_QUEUE.get_nowait())
    return signals


def _hold_signals() -> None:
    """Not those with a handler of the application's own: where it is called then, what it raises goes nowhere."""
    modules = {number: getattr(signal.getsignal(number), "__module__", "") for number in Worker.SIGNALS}
    _held.of_worker = [number for number, module in modules.items() if module in _WORKER_MODULES]
    of_master = [number for number, module in modules.items() if module == Arbiter.__module__]
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _held.of_worker + of_master)


def _let_signals_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _forget_handlers_of_worker() -> None:
    """The application has forked a process. It would ignore the SIGTERM of `multiprocessing.Process.terminate()`."""
    for number in _held.of_worker:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _let_signals_through()


# Once in a process: a second hook would take the mask of the first for what there was before.
os.register_at_fork(
    before=_hold_signals, after_in_parent=_let_signals_through, after_in_child=_forget_handlers_of_worker
)
