"""The gunicorn worker: its life cycle, signals and hooks around the server."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import uvloop
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError
from gunicorn.workers.base import Worker

from outrider.access_log import AccessLog
from outrider.app_loading import load_application, make_error_app
from outrider.config import ServerConfig
from outrider.dump import Dump
from outrider.errors import Aborted, ConfigurationError
from outrider.fork_signals import signals_since_fork
from outrider.gunicorn_settings import refuse_unsupported
from outrider.heap import freeze_boot_objects
from outrider.http1_encoding import DefaultHeaders
from outrider.inherited_tls import InheritedTLS
from outrider.lifespan import Lifespan, LifespanError
from outrider.log_errors import quiet_handler_errors
from outrider.log_files import reopen_log_files
from outrider.log_format import use_log_format
from outrider.log_writer import LogWriter
from outrider.loop_busy import TimedLoop
from outrider.observer import Observer
from outrider.orphan import die_with_parent
from outrider.probe import ProbeError
from outrider.process_end import close_loop, exit_of_application, exit_status, limit_wait_for_threads
from outrider.runtime import Runtime
from outrider.scoreboard import Field, Row, Scoreboard, WorkerState
from outrider.server import ABORT_AFTER, Hooks, Server, Stop, drain_time
from outrider.server_timing import add_server_timing
from outrider.settings import load_settings
from outrider.supervised import ProcessTitle, read_supervision
from outrider.tls_certificates import TLS
from outrider.uvicorn_kwargs import apply_config_kwargs
from outrider.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

SCOREBOARD_FD = "OUTRIDER_SCOREBOARD_FD"
SLOWEST_TICK = 0.25
FASTEST_TICK = 0.02
"""Seconds between ticks: a quarter of what `stall_warning` or `timeout` must be able to see, within these."""
QUICK_LIMIT = 0.9
"""Seconds after SIGINT or SIGQUIT at which a loop that is blocked is aborted."""


class UvicornWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """Serves an ASGI application: `gunicorn app:app -k outrider.UvicornWorker`.

    `CONFIG_KWARGS` on a subclass takes the keywords of `uvicorn.Config`, as `uvicorn_worker` does.
    """

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {}

    # gunicorn sets these to their default first, and that of SIGUSR2, which asks for a dump, is death.
    SIGNALS: ClassVar[list[signal.Signals]] = [sig for sig in Worker.SIGNALS if sig != signal.SIGUSR2]

    _board: ClassVar[Scoreboard | None] = None
    _inherited_tls: ClassVar[InheritedTLS | None] = None
    ppid: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """gunicorn: called in the master before the fork."""
        cfg = kwargs["cfg"] if "cfg" in kwargs else args[5]
        self._overrides = apply_config_kwargs(type(self), cfg)
        super().__init__(*args, **kwargs)
        self._supervision = read_supervision()
        self._title = ProcessTitle(self._supervision, self.cfg.proc_name)
        self.row: Row = self._scoreboard().claim(self._supervision.generation if self._supervision else 0)
        self._dump = Dump(self.log, self._requests_in_flight)
        self.log_writer = LogWriter((self.log.error_log, self.log.access_log), self.log)
        self._server: Server | None = None
        self._runtime: Runtime | None = None
        self._is_quick = False
        self._has_owner = False
        self._is_aborting = False
        self._end_by = 0.0

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """gunicorn: called once in the master before the first fork, so that bad settings end the start.

        Raises:
            ConfigurationError: gunicorn prints it as one line and exits 1.
        """
        overrides = apply_config_kwargs(cls, cfg, log)
        refuse_unsupported(cfg)
        settings = load_settings(cfg, overrides=overrides)
        ServerConfig.from_gunicorn(cfg, settings)
        AccessLog(log, cfg)
        UvicornWorker._inherited_tls = InheritedTLS(cfg, settings, log)
        cls._scoreboard()
        for name in use_log_format(settings.log_format, log, read_supervision()):
            log.info("log_format is %s, but %s has a handler with a format of its own", settings.log_format, name)

    @staticmethod
    def _scoreboard() -> Scoreboard:
        board = UvicornWorker._board
        if board is None:
            descriptor = os.environ.get(SCOREBOARD_FD)
            if descriptor and not descriptor.isdigit():
                raise ConfigurationError(f"{SCOREBOARD_FD}={descriptor}: a descriptor's number is needed")
            board = Scoreboard.from_descriptor(int(descriptor)) if descriptor else Scoreboard.anonymous()
            UvicornWorker._board = board
        return board

    # -- boot

    def init_process(self) -> None:
        """gunicorn: the process has been forked. Exit code 3 if this worker can't serve."""
        self.row.adopt(os.getpid())
        self._title.show("booting")
        quiet_handler_errors((self.log.error_log, self.log.access_log))
        try:
            # While still privileged: a key that only root may read is usual.
            refuse_unsupported(self.cfg)
            self._settings = load_settings(self.cfg, overrides=self._overrides)
            self._config = ServerConfig.from_gunicorn(self.cfg, self._settings)
            self._tls = (self._inherited_tls or TLS).from_gunicorn(self.cfg, self._settings, self.log)
            self._access_log = AccessLog(self.log, self.cfg)
            use_log_format(self._settings.log_format, self.log, self._supervision)
        except ConfigurationError as error:
            self._fail_boot(str(error))
        try:
            super().init_process()
        except PermissionError as error:
            if self._has_owner:
                raise
            self._fail_boot(
                f"user, group: this process may not become uid {self.cfg.uid}, gid {self.cfg.gid} ({error}). "
                "Start gunicorn as root, or leave the settings out."
            )
        except KeyboardInterrupt:  # from the import: in gunicorn's frames, below, it would halt the whole service
            self.log.exception("Exception in worker process")
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def load_wsgi(self) -> None:
        """gunicorn: import the application.

        Raises:
            AppImportError: exit code 4, with the traceback in the log unless the name alone is wrong.
        """
        try:
            self.wsgi = load_application(self.app, self._settings.app_factory, self.log)
        except AppImportError as error:
            if not (self.cfg.reload and isinstance(error.__cause__, SyntaxError)):
                raise
            self._serve_syntax_error(error.__cause__)

    def _serve_syntax_error(self, error: SyntaxError) -> None:
        """Under --reload a syntax error is shown on every request until the file is mended."""
        if self.reloader is not None and error.filename is not None:
            self.reloader.add_extra_file(error.filename)
        self.wsgi = make_error_app(error)

    def _fail_boot(self, reason: str) -> None:
        self.log.error(reason)
        sys.exit(Arbiter.WORKER_BOOT_ERROR)

    # -- signals

    def init_signals(self) -> None:
        """gunicorn: handlers for the time of the boot, when there is no loop yet."""
        self._has_owner = True  # gunicorn has just set user and group
        die_with_parent(self.ppid, signal.SIGKILL)
        arbiter = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        signal.signal(signal.SIGUSR2, self._handle_usr2)
        super().init_signals()
        signal.signal(signal.SIGHUP, self._ignore_signal)
        early = signals_since_fork(arbiter)
        if signal.SIGUSR1 in early:
            reopen_log_files(self.log)
        if early & {signal.SIGINT, signal.SIGQUIT}:
            self.handle_quit(signal.SIGQUIT, None)
        if signal.SIGTERM in early:
            self.handle_exit(signal.SIGTERM, None)

    def _install_loop_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        graceful = drain_time(self._config.graceful_timeout) + ABORT_AFTER
        signal.signal(signal.SIGTERM, self._stop_handler(loop, self._request_drain, graceful))
        for fast in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(fast, self._stop_handler(loop, self._request_quick_stop, QUICK_LIMIT))
        loop.add_signal_handler(signal.SIGUSR1, self.log_writer.call, partial(reopen_log_files, self.log))
        for ignored in (signal.SIGHUP, signal.SIGWINCH):
            loop.add_signal_handler(ignored, self.log.debug, "worker: %s ignored", ignored.name)

    def _stop_handler(
        self, loop: asyncio.AbstractEventLoop, request_stop: Callable[[float], None], limit: float
    ) -> Callable[[int, FrameType | None], None]:
        """A handler of Python's, not of the loop: it sets the deadline even where the loop is blocked."""

        def handle(_sig: int, _frame: FrameType | None) -> None:
            now = time.monotonic()
            self._expect_end_by(now + limit)
            loop.call_soon_threadsafe(request_stop, now)

        return handle

    def _ignore_signal(self, sig: int, frame: FrameType | None) -> None:
        """Do nothing. A handler, unlike SIG_IGN, is not inherited by programs that the application starts."""

    def _handle_usr2(self, sig: int, frame: FrameType | None) -> None:
        """SIGUSR2: log what the worker does, and go on. Runs even where the loop is blocked in Python code."""
        self._dump.log_on_request(self.pid, frame)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """gunicorn: SIGTERM before there is a loop, so before anything was accepted. An import may take long."""
        self.alive = False
        sys.exit(0)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """gunicorn: SIGABRT, sent when the heartbeat failed. Runs even where the loop is blocked in Python code."""
        self.alive = False
        signal.signal(signal.SIGABRT, self._ignore_signal)  # one dump at a time
        self._dump.log_on_abort(self.pid, frame)
        try:
            if self._server is not None:
                self._server.leave_queues()  # uvloop polls once more before it lets the exception out
            self.cfg.worker_abort(self)
        finally:
            aborted = Aborted(1)
            if self._runtime is not None:
                with suppress(RuntimeError):  # the loop is closed
                    # An `except:` of the application's may swallow the first.
                    self._runtime.loop.call_soon_threadsafe(aborted.raise_again)
            raise aborted

    def _request_drain(self, asked_at: float | None = None) -> None:
        self.alive = False
        if self._server is not None:
            self._server.stop(Stop.DRAIN, asked_at)

    def _request_quick_stop(self, asked_at: float | None = None) -> None:
        if self._server is not None:
            self._server.stop(Stop.QUICK, asked_at)
        if not self._is_quick:
            self._is_quick = True
            self.alive = False
            try:
                self.cfg.worker_int(self)
            except Exception:
                self.log.exception("Exception in worker_int hook")

    # -- running

    def run(self) -> None:
        """gunicorn: serve until told to stop."""
        loop = self._new_loop()
        self._dump.watch(loop)
        asyncio.set_event_loop(loop)
        self._watchdog = Watchdog(self.log, self._requests_in_flight, self._settings.stall_warning, self.timeout * 2)
        failure = ""
        try:
            try:
                loop.run_until_complete(self._serve(loop))
            except (LifespanError, ProbeError) as error:
                failure = str(error)
            self._ignore_late_signals()
            # Not after a SystemExit: it has left the loop in the middle of a callback.
            close_loop(loop, self._end_by)
        except (SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
            if isinstance(error, Aborted) or self.row[Field.STATE] < WorkerState.READY:
                raise
            raise exit_of_application(error, self.log) from None
        else:
            if failure:
                self._fail_boot(failure)
        finally:
            self._watchdog.stop()
            self.row.release()
            self._ignore_late_signals()
            limit_wait_for_threads(self.log, self._end_by, self.log_writer.flush)
            self.log_writer.expect_exit(exit_status(), self._end_by)

    def _ignore_late_signals(self) -> None:
        for late in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(late, self._ignore_signal)

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        if self.cfg.asgi_loop == "asyncio":
            return TimedLoop()
        return uvloop.new_event_loop()

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        settings = self._settings
        if self.cfg.threads > 1:
            loop.set_default_executor(ThreadPoolExecutor(self.cfg.threads, thread_name_prefix="outrider"))
        default_headers = DefaultHeaders(
            server=settings.server_header, date=settings.date_header, extra=settings.response_headers
        )
        app = add_server_timing(self.wsgi) if settings.server_timing else self.wsgi
        runtime = self._runtime = Runtime(loop, app, self._config, self.log, default_headers)
        runtime.max_requests = self.max_requests
        runtime.on_max_requests = self._retire_after_max_requests
        if self._supervision is not None:  # nobody else reads what it counts
            runtime.meter = self.row.meter
        observer = Observer(self, self._access_log)
        if observer.watches:
            runtime.observer = observer
        self._server = Server(
            runtime,
            [sock.sock for sock in self.sockets],
            self._tls,
            self.row,
            Lifespan(self.wsgi, self.cfg.asgi_lifespan, self.log, runtime.state),
            Hooks(booted=self._note_booted, tick=self._tick, expect_end_by=self._expect_end_by),
            self._tick_period(),
        )
        self._install_loop_signals(loop)
        # The reloader thread, and a signal that came before the loop, clear `alive` and write to the pipe.
        loop.add_reader(self.PIPE[0], self._note_stop)
        self._note_stop()
        self._watchdog.start(self._guard, getattr(self.app, "app_uri", None) or "")
        die_with_parent(self.ppid, None)
        await self._server.serve(settings.probe_path)

    def _note_booted(self) -> None:
        self.log_writer.start()  # not before: the application may set up logging of its own
        freeze_boot_objects()

    def _tick_period(self) -> float:
        watched = [seconds for seconds in (self._settings.stall_warning, self.timeout) if seconds]
        return max(FASTEST_TICK, min([SLOWEST_TICK, *(seconds / 4 for seconds in watched)]))

    def _tick(self) -> None:
        self._watchdog.beat()
        self.notify()
        if self._runtime is not None:
            self.nr = self._runtime.counters.requests
        self.row[Field.LOG_DROPS] = self.log_writer.drops
        self._title.show(WorkerState(self.row[Field.STATE]).name.lower())
        parent = os.getppid()
        if parent != self.ppid and self.alive:
            # A worker that has yet to boot goes with its master: nobody else has a limit for the boot.
            if self._is_supervisor(parent) and self.row[Field.STATE] == WorkerState.READY:
                self.log.warning("The master is gone; the supervisor took over")
                self.ppid = parent
            else:
                self.log.info("Parent changed, shutting down: %s", self)
                self._request_drain()

    def _is_supervisor(self, pid: int) -> bool:
        return self._supervision is not None and pid == self._supervision.pid

    def _guard(self, silent: float) -> None:
        """In the watchdog's thread, which can still count the stall that the master kills this worker for."""
        self.row[Field.STALLS] = self._watchdog.stalls
        self._abort_if_unwatched(silent)

    def _abort_if_unwatched(self, silent: float) -> None:
        """In the watchdog's thread: do what the master would, were it still there, about a loop that hangs; once."""
        parent = os.getppid()
        has_supervisor = self._is_supervisor(parent)
        if self._is_aborting or (parent == self.ppid and not has_supervisor):
            return
        # An orphan has to drain and end, so it has a limit in any case; a worker of the supervisor serves on.
        limit = self.timeout * 2 or (math.inf if has_supervisor else self._config.graceful_timeout)
        if silent > limit:
            self._is_aborting = True
            self._watchdog.expire_at(time.monotonic(), _abort)

    def _note_stop(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)
        if not self.alive:
            self._request_drain()

    def _retire_after_max_requests(self) -> None:
        self.log.info("Autorestarting worker after %d requests.", self.max_requests)
        self._request_drain()

    def _requests_in_flight(self) -> list[str]:
        return self._runtime.describe_streams() if self._runtime is not None else []

    def _expect_end_by(self, deadline: float) -> None:
        """Should the loop be blocked at the deadline, abort: the stacks are logged, and the process ends."""
        self._end_by = min(self._end_by or deadline, deadline)
        self._watchdog.expire_at(deadline, _abort)


def _abort() -> None:
    os.kill(os.getpid(), signal.SIGABRT)
