"""The master of one generation: `python -m outrider_supervisor.master OPTIONS APP`, started by the supervisor alone.

It is gunicorn's arbiter, so that configuration, hooks, logging and every worker class work as they do there, with
another main loop: `pool` decides on the workers, and what is wanted comes as messages. Signal handlers only enqueue.

Started are workers; everything else is not the master's: listeners are inherited, the pid file, systemd and
gunicorn's control socket are the supervisor's. When the supervisor dies the master stops gracefully.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import logging
import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from gunicorn import debug, sock
from gunicorn.arbiter import Arbiter
from setproctitle import setproctitle

# Not used here, but after chdir a module of the project could be taken for one that it imports: asyncio.py, http.py.
# Under gunicorn `-k` has the same effect.
import outrider.worker  # noqa: F401  # see above
from outrider.errors import ConfigurationError
from outrider.log_errors import quiet_handler_errors
from outrider.log_files import reopen_log_files
from outrider.log_format import use_log_format
from outrider.orphan import die_with_parent
from outrider.scoreboard import Scoreboard, WorkerState
from outrider_supervisor.application import ConfigurationFailed, OutriderApplication, find_log_format
from outrider_supervisor.channel import Channel, Surroundings
from outrider_supervisor.master_failure import describe_failure
from outrider_supervisor.messages import (
    ALIVE_PERIOD,
    Alive,
    MasterBooted,
    MasterFailed,
    ReopenLogs,
    Replace,
    ReplaceAtOnce,
    SetTarget,
    Stop,
    ToMaster,
    WorkerExited,
)
from outrider_supervisor.pool import DRAIN_MARGIN, KILL_AFTER, Action, Limits, Pool, Send, Spawn, Stage
from outrider_supervisor.preload import NotImported, import_for_sharing
from outrider_supervisor.reports import ReportHandler, open_reports
from outrider_supervisor.watched_worker import Upbringing, WorkerFactory

TICK = 1.0
"""Seconds between two looks at the workers where nothing else wakes the master."""
BOOT_TICK = 0.03
"""The same while a worker boots."""
END_MARGIN = 6.0
"""Seconds for the end of a stop, beyond those after which the last worker has been killed."""

_FOR_SUPERVISOR = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2)


class Master(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """One generation's master."""

    worker_class: Any

    def __init__(
        self, app: OutriderApplication, surroundings: Surroundings, channel: Channel, reports: ReportHandler
    ) -> None:
        """Set up logging and worker class, and import a preloaded application; `serve` does the rest.

        Raises whatever the logger class, the worker class or the application raise.
        """
        self.LISTENERS: list[Any] = []
        self.WORKERS: dict[int, Any] = {}
        self._surroundings = surroundings
        self._channel = channel
        self._reports = reports
        self._wakeup_pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        super().__init__(app)
        cfg = app.cfg
        limits = Limits(cfg.boot_timeout, cfg.timeout, cfg.graceful_timeout, cfg.restart_intensity)
        self._pool = Pool(surroundings.workers, limits, random.random)
        self._next_alive = 0.0
        self._poll = select.poll()
        self._poll.register(self._wakeup_pipe[0], select.POLLIN)
        self._poll.register(channel.fileno(), select.POLLIN)

    # -- setting up

    def setup(self, app: Any) -> None:
        """gunicorn: take over the configuration, and import the application under `preload_app`."""
        super().setup(NotImported(app))
        self.app = app
        self._report_errors()
        use_log_format(find_log_format(self.cfg), self.log, self._surroundings.supervision)
        upbringing = Upbringing(
            self._surroundings.supervision,
            self.proc_name,
            Scoreboard.from_descriptor(self._surroundings.scoreboard),
            self._reports,
            self._leave_master,
        )
        self.worker_class = WorkerFactory(self.worker_class, upbringing, self.SIG_QUEUE)
        if self.cfg.preload_app:
            import_for_sharing(app)

    def _set_num_workers(self, value: int) -> None:
        # The first value is gunicorn's, from the configuration; the supervisor's is what counts.
        Arbiter.num_workers.fset(self, self._surroundings.workers if self._num_workers is None else value)

    num_workers = property(Arbiter._get_num_workers, _set_num_workers)  # noqa: SLF001  # as gunicorn defines it

    def _report_errors(self) -> None:
        """Let warnings and errors reach the supervisor. A `logconfig` may have thrown the handler out."""
        error_log = getattr(self.log, "error_log", None) or logging.getLogger("gunicorn.error")
        if self._reports not in error_log.handlers:
            error_log.addHandler(self._reports)
        quiet_handler_errors((error_log, getattr(self.log, "access_log", None) or error_log))

    def init_signals(self) -> None:
        """gunicorn: the handlers enqueue. The pipe wakes the loop, even from just before it begins to wait."""
        super().init_signals()
        signal.set_wakeup_fd(self._wakeup_pipe[1], warn_on_full_buffer=False)

    def _leave_master(self) -> None:
        """In a worker: let go of what is the master's."""
        signal.set_wakeup_fd(-1)
        for descriptor in self._wakeup_pipe:
            os.close(descriptor)
        self._channel.close()

    # -- the loop

    def boot(self) -> None:
        """Take the listeners, check what the worker class needs, run the hooks of the start."""
        # gunicorn takes these for systemd's, and so neither binds nor, at the end, unlinks.
        os.environ["LISTEN_PID"] = str(os.getpid())
        self.start()
        for listener in self.LISTENERS:
            listener.set_inheritable(False)  # a fork keeps them all the same
        self._report_errors()
        generation = self._surroundings.supervision.generation
        if generation > 1:
            self.cfg.on_reload(self)
        show_title(self.cfg, generation, "running")
        self._channel.send(MasterBooted())

    def serve(self) -> NoReturn:
        """Run workers until told to stop, and exit. A worker's process leaves this function by SystemExit, too."""
        try:
            self._receive(0)  # a stop may have come in the meantime
            while True:
                self._step()
                if self._pool.is_finished:
                    break
                self._receive(self._pause())
        except Exception as error:
            self.log.exception("Unhandled exception in the master")
            self._channel.send(MasterFailed(f"the master failed: {error!r}", traceback.format_exc()))
            sys.exit(1)  # the workers see that and drain by themselves
        self.log.info("Shutting down: %s", self.master_name)
        self._call_hook(self.cfg.on_exit, self)
        sys.exit(0)

    def _step(self) -> None:
        while not self.SIG_QUEUE.empty():
            self._handle_signal(self.SIG_QUEUE.get_nowait())
        self.reap_workers()
        now = time.monotonic()
        self._observe(now)
        if now >= self._next_alive:
            self._next_alive = now + ALIVE_PERIOD
            self._channel.send(Alive())
        if not self._channel.is_open and not self._pool.is_stopping:
            self._stop(fast=False)
            self.log.warning("The supervisor is gone: stopping gracefully")
        self._carry_out()

    def _carry_out(self) -> None:
        while actions := self._pool.decide(time.monotonic()):
            for action in actions:
                self._perform(action)

    def _pause(self) -> float:
        tick = BOOT_TICK if self._pool.is_booting else TICK
        wake_at = self._pool.wake_at()
        return tick if wake_at is None else min(tick, max(0.0, wake_at - time.monotonic()))

    def _receive(self, pause: float) -> None:
        """Wait, and take the message that comes."""
        if not self._channel.is_open:
            with contextlib.suppress(KeyError):  # it has been done
                self._poll.unregister(self._channel.fileno())
        # A millisecond too late is right on time, one too early would be a round for nothing.
        for descriptor, _event in self._poll.poll(int(pause * 1000) + 1 if pause else 0):
            if descriptor == self._wakeup_pipe[0]:
                _drain(descriptor)
            else:
                self._receive_message()

    def _receive_message(self) -> None:
        try:
            message = self._channel.receive()
        except ValueError as error:
            self.log.warning("Ignored: %s", error)
            return
        if message is not None:
            self._obey(message)

    def _observe(self, now: float) -> None:
        """Look at the workers' rows."""
        for pid, known in list(self._pool.workers.items()):
            if known.stage not in (Stage.BOOTING, Stage.READY):
                continue
            watched = self.WORKERS[pid].watched
            state = watched.state
            if state is WorkerState.READY:
                self._pool.ready(pid, now)
                self._pool.beat(pid, min(watched.beat_at, now))
            elif state is WorkerState.DRAINING:  # EXITED says nothing yet: a failed boot ends there, too
                self._pool.draining(pid, now)

    # -- orders

    def _obey(self, message: ToMaster) -> None:
        match message:
            case SetTarget(workers):
                self._pool.set_target(workers)
                if workers != self.num_workers:
                    self._call_hook(functools.partial(setattr, self, "num_workers", workers))
            case Replace(pid):
                self._pool.replace(pid, time.monotonic())
            case ReplaceAtOnce(pid):
                self._pool.replace(pid, time.monotonic(), at_once=True)
            case Stop(fast):
                self._stop(fast=fast)
            case ReopenLogs():
                self._reopen_logs()

    def _handle_signal(self, number: int) -> None:
        if number == signal.SIGTERM:
            self._stop(fast=False)
        elif number in (signal.SIGINT, signal.SIGQUIT):
            self._stop(fast=True)
        elif number == signal.SIGUSR1:
            self._reopen_logs()
        elif number in _FOR_SUPERVISOR:
            name = signal.Signals(number).name
            supervisor = self._surroundings.supervision.pid
            self.log.warning("%s does nothing in a master: send it to the supervisor (pid: %s)", name, supervisor)

    def _stop(self, *, fast: bool) -> None:
        show_title(self.cfg, self._surroundings.supervision.generation, "stopping")
        patience = KILL_AFTER if fast else self.cfg.graceful_timeout + DRAIN_MARGIN
        # The kernel's: a write to a log that nobody reads any more waits for ever, and Python with it.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        limit = patience + END_MARGIN
        signal.setitimer(signal.ITIMER_REAL, min(limit, signal.getitimer(signal.ITIMER_REAL)[0] or limit))
        sock.close_sockets(self.LISTENERS, unlink=False)
        self.LISTENERS = []
        self._pool.stop(time.monotonic(), fast=fast)
        self._carry_out()
        # Last, since it may be the write that waits.
        self.log.info("Stopping %s", "at once" if fast else "gracefully")

    def _reopen_logs(self) -> None:
        if reopen_log_files(self.log):
            self.kill_workers(signal.SIGUSR1)

    # -- workers

    def _perform(self, action: Action) -> None:
        match action:
            case Spawn(replaces):
                self._spawn(replaces)
            case Send(pid, number):
                self.kill_worker(pid, number)
                if number == signal.SIGABRT:
                    self.log.critical("WORKER TIMEOUT (pid:%s): %s", pid, self._pool.workers[pid].fate)
            case _:
                self._channel.send(action.message)

    def _spawn(self, replaces: int) -> None:
        try:
            pid = self.spawn_worker()
        except BaseException:  # a hook's, or no memory
            if os.getpid() != self.pid:
                raise  # the end of the worker, which has been forked
            self.log.exception("A worker could not be started")
            self._pool.spawn_failed(time.monotonic())
        else:
            self._pool.spawned(pid, replaces, time.monotonic())

    def kill_worker(self, pid: int, sig: int) -> None:
        """gunicorn: send a signal. A worker's pid is its own until the worker is reaped, which is done here alone."""
        if pid in self.WORKERS:
            try:
                os.kill(pid, sig)
            except OSError:
                self.log.exception("Worker (pid:%s) cannot be signalled", pid)

    def reap_workers(self) -> None:
        """gunicorn: take note of the children that are gone; those that a hook has started are reaped, too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            worker = self.WORKERS.pop(pid, None)
            if worker is None:
                self.log.debug("Reaped a child that is no worker (pid: %s, status: %s)", pid, status)
                continue
            is_abrupt = worker.watched.is_abrupt
            message = self._pool.exited(pid, os.waitstatus_to_exitcode(status), time.monotonic(), is_abrupt=is_abrupt)
            if message is not None:
                self._log_exit(message, status)
            worker.watched.bury()
            self._call_hook(self.cfg.child_exit, self, worker)

    def _log_exit(self, message: WorkerExited, status: int) -> None:
        if not message.expected:
            self.log.error("Worker (pid:%s) %s", message.pid, message.how)
        elif status:
            self.log.warning("Worker (pid:%s) %s", message.pid, message.how)

    def _call_hook(self, hook: Callable[..., object], *args: object) -> None:
        """Call it; other than at the start its failure must not end a service that runs."""
        try:
            hook(*args)
        except (Exception, SystemExit):
            self.log.exception("Exception in a hook of the master")


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 4096)


def show_title(cfg: Any, generation: int, state: str) -> None:
    """Let ps see the master's state."""
    setproctitle(f"outrider: master [{cfg.proc_name}] g{generation} {state}")


def _adapt(cfg: Any) -> None:
    """Switch off what is the supervisor's."""
    cfg.set("pidfile", None)
    cfg.set("control_socket_disable", True)
    # The supervisor has passed descriptors in `bind` on with the other listeners.
    cfg.set("bind", [each for each in cfg.bind if not each.startswith("fd://")])
    for variable in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "GUNICORN_PID", "GUNICORN_FD"):
        os.environ.pop(variable, None)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the master of one generation. Exit code 0 after a stop, 1 if it could not start."""
    try:
        surroundings = Surroundings.from_environ()
    except ConfigurationError as error:
        ConfigurationFailed(str(error)).exit()
    surroundings.keep_private()
    # Until the loop watches the channel, which an import that hangs would keep from ever happening.
    die_with_parent(surroundings.supervision.pid, signal.SIGKILL)
    channel = Channel(surroundings.channel)
    try:
        app = OutriderApplication(sys.argv[1:] if argv is None else argv)
        _adapt(app.cfg)
        # Where an import hangs is in the log then, shortly before the supervisor gives up.
        faulthandler.dump_traceback_later(app.cfg.boot_timeout)
        show_title(app.cfg, surroundings.supervision.generation, "starting")
        app.set_import_path()
        if app.cfg.spew:
            debug.spew()
        master = Master(app, surroundings, channel, open_reports(surroundings.reports))
        master.boot()
    except BaseException as error:  # noqa: BLE001  # user's code ran, and nothing may end this without a word
        failure = describe_failure(error)
        channel.send(failure)
        ConfigurationFailed(failure.reason, failure.details).exit()
    faulthandler.cancel_dump_traceback_later()
    die_with_parent(surroundings.supervision.pid, None)
    master.serve()


if __name__ == "__main__":
    main()
