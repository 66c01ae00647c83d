"""The last moments of a worker's process: nothing that the application left behind may keep it."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from gunicorn.arbiter import Arbiter

_MISLEADING_CODES = (None, 0, Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR)
LEAST_TASK_PATIENCE = 0.01
MOST_TASK_PATIENCE = 0.2
"""Seconds that tasks and asynchronous generators are given to end, when cancelled."""
LEAST_THREAD_PATIENCE = 0.25
"""Seconds that threads are given at least to end by themselves."""
LOG_PATIENCE = 0.25
"""Seconds that the log is given to be written, beyond the worker's deadline."""


def close_loop(loop: asyncio.AbstractEventLoop, end_by: float) -> None:
    """Cancel the tasks that are left, and close the loop without waiting for its threads.

    Not for a loop that a SystemExit has left in the middle of a callback: it can't run again.

    Args:
        loop: it does not run at the moment.
        end_by: the worker's deadline (time.monotonic), 0 if it has none.
    """
    time_left = end_by - time.monotonic() if end_by else math.inf
    patience = max(LEAST_TASK_PATIENCE, min(MOST_TASK_PATIENCE, time_left / 2))
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=patience))
    closing = loop.create_task(loop.shutdown_asyncgens())
    loop.run_until_complete(asyncio.wait({closing}, timeout=patience))
    loop.close()


def exit_of_application(error: BaseException, log: Any) -> SystemExit:
    """How a worker ends that has served, if the application ends it outside of a request, as by `sys.exit()`.

    With one of gunicorn's exit codes for a boot that failed, it would take the whole service with it; with 0 it would
    pass for a worker that has finished what it held, which nobody counts as a crash. A KeyboardInterrupt would have
    gunicorn's arbiter, of which this process has a copy, stop the other workers.
    """
    if not isinstance(error, SystemExit):
        log.error("The worker ends: the application raised %r outside of a request", error, exc_info=error)
        return SystemExit(1)
    log.warning("The worker ends: the application called sys.exit(%s) outside of a request", error.code)
    return SystemExit(1) if error.code in _MISLEADING_CODES else error


def limit_wait_for_threads(log: Any, end_by: float, flush: Callable[[float], object]) -> None:
    """Have the process end at `end_by` (time.monotonic) even if threads of the application still run.

    Python waits for them at its exit, for ever. The exit status is that of the exception which is on its way. `flush`
    waits so many seconds at most for the log to be written.
    """
    if _threads_left():
        patience = max(LEAST_THREAD_PATIENCE, end_by - time.monotonic())
        timer = threading.Timer(patience, _exit_without_threads, (log, exit_status(), flush))
        timer.daemon = True
        timer.start()


def _exit_without_threads(log: Any, status: int, flush: Callable[[float], object]) -> None:
    log.warning("Exiting although threads of the application still run: %s", ", ".join(_threads_left()))
    flush(LOG_PATIENCE)
    os._exit(status)


def _threads_left() -> list[str]:
    return [each.name for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]


def exit_status() -> int:
    """The status with which the process ends by the exception that is on its way; 0 without one."""
    error = sys.exc_info()[1]
    code = error.code if isinstance(error, SystemExit) else error
    return code if isinstance(code, int) else int(code is not None)
