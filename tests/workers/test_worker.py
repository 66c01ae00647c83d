"""The worker class: its place in gunicorn's life cycle, its signals, hooks, exit codes and settings."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from gunicorn import util
from gunicorn.config import Config
from gunicorn.errors import AppImportError
from gunicorn.glogging import Logger

import outrider
from outrider.config import ServerConfig
from outrider.errors import ConfigurationError
from outrider.scoreboard import Field, Scoreboard, WorkerState
from outrider.server import Server, Stop
from outrider.settings import load_settings
from outrider.supervised import ProcessTitle
from outrider.watchdog import Watchdog
from outrider.worker import SCOREBOARD_FD, UvicornWorker
from outrider_testing.forked_worker import PATIENCE, App, ForkedWorker, read_all
from outrider_testing.waiting import until

MakeWorker = Callable[..., UvicornWorker]
Fork = Callable[..., ForkedWorker]


@pytest.fixture(autouse=True)
def fresh_scoreboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UvicornWorker, "_board", None)
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)


@pytest.fixture(autouse=True)
def clean_loggers() -> Iterator[None]:
    yield
    for name in ("gunicorn.access", "gunicorn.error"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.disabled = False
        logger.propagate = True


class FakeLog:
    """The part of gunicorn's logger that the worker uses itself."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.setups = 0
        self.error_log = self.access_log = logging.getLogger("outrider.test")

    def setup(self, cfg: Any) -> None:
        self.setups += 1

    def info(self, message: str, *args: object, **_: object) -> None:
        self.lines.append(message % args)

    debug = warning = error = exception = critical = info


class FakeWatchdog:
    """Keeps what it was asked to do at a deadline."""

    def __init__(self) -> None:
        self.beats = 0
        self.expiries: list[tuple[float, Callable[[], object]]] = []

    def beat(self) -> None:
        self.beats += 1

    def expire_at(self, deadline: float, action: Callable[[], object]) -> None:
        self.expiries.append((deadline, action))


def with_watchdog(worker: UvicornWorker) -> FakeWatchdog:
    watchdog = FakeWatchdog()
    worker._watchdog = cast("Watchdog", watchdog)
    return watchdog


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = threading.current_thread().name.encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def make_worker() -> Iterator[MakeWorker]:
    """Workers that stay in this process."""
    workers = []

    def make(worker_class: type[UvicornWorker] = UvicornWorker, load: Any = lambda: app, **settings: Any) -> Any:
        cfg = Config()
        for name, value in settings.items():
            cfg.set(name, value)
        worker = worker_class(1, os.getppid(), [], App(cfg, load), cfg.timeout / 2, cfg, FakeLog())
        worker.pid = os.getpid()
        worker._settings = load_settings(cfg, {}, worker._overrides)
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        worker.tmp.close()


@pytest.fixture
def fork(tmp_path: Path) -> Iterator[Fork]:
    """Workers in processes of their own."""
    workers: list[ForkedWorker] = []

    def start(load: Callable[[], Any] = lambda: app, *, wait: bool = True, **settings: Any) -> ForkedWorker:
        directory = tmp_path / str(len(workers))
        directory.mkdir()
        worker = ForkedWorker(directory, load, **settings)
        workers.append(worker)
        return worker.start_and_wait() if wait else worker.start()

    yield start
    for worker in workers:
        worker.close()
        print(f"--- log of worker {worker.pid} ---\n{worker.log()}")


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent of this process is a supervisor, that of a forked worker as well."""
    monkeypatch.setenv("OUTRIDER_SUPERVISOR_PID", str(os.getppid()))
    monkeypatch.setenv("OUTRIDER_SUPERVISOR_GENERATION", "3")


def lines_of(worker: UvicornWorker) -> list[str]:
    return cast("FakeLog", worker.log).lines


# -- configuration


def test_class_is_imported_on_first_use() -> None:
    assert outrider.UvicornWorker is UvicornWorker
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        outrider.Nothing  # noqa: B018  # that is what is tested


def check(worker_class: type[UvicornWorker] = UvicornWorker, setting: str = "bind", value: str = ":0") -> list[str]:
    """Run check_config; what it logs."""
    cfg, log = Config(), FakeLog()
    cfg.set(setting, value)
    worker_class.check_config(cfg, log)
    assert log.setups == ("log_level" in worker_class.CONFIG_KWARGS)
    return log.lines


def test_default_configuration_is_accepted() -> None:
    assert check() == []


@pytest.mark.parametrize(
    "setting, value, message",
    [
        ("protocol", "uwsgi", "protocol is 'uwsgi'"),
        ("certfile", "missing.pem", "certfile 'missing.pem'"),
    ],
)
def test_bad_setting_is_refused_before_the_fork(setting: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        check(UvicornWorker, setting, value)


def test_bad_log_format_is_refused_before_the_fork(tmp_path: Path) -> None:
    cfg = Config()
    cfg.set("errorlog", str(tmp_path / "error.log"))
    cfg.set("access_log_format", "%(nonsense")
    with pytest.raises(ConfigurationError, match=r"^access_log_format"):
        UvicornWorker.check_config(cfg, Logger(cfg))


def test_bad_variable_is_refused_before_the_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_HEADER_TIMEOUT", "soon")
    with pytest.raises(ConfigurationError, match=r"^header_timeout is 'soon'"):
        check()


class WithKwargs(UvicornWorker):
    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "timeout_keep_alive": 7,
        "server_header": False,
        "log_level": "debug",
        "ws": "auto",
    }


def test_config_kwargs_of_a_subclass_are_taken(make_worker: MakeWorker) -> None:
    (note,) = check(WithKwargs)
    assert note.startswith("CONFIG_KWARGS of WithKwargs: ws='auto'")
    worker = make_worker(WithKwargs)
    assert worker.cfg.keepalive == 7
    assert worker._settings.server_header is False
    assert lines_of(worker) == []


class WithUnknownKwarg(UvicornWorker):
    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"timeout_keepalive": 7}


def test_unknown_config_kwarg_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'timeout_keepalive' is no keyword of uvicorn.Config"):
        check(WithUnknownKwarg)


def test_worker_accepts_keywords() -> None:
    cfg = Config()
    worker = UvicornWorker(age=1, ppid=1, sockets=[], app=App(cfg, lambda: app), timeout=15, cfg=cfg, log=FakeLog())
    worker.tmp.close()
    assert not worker.row.is_private


def test_workers_share_one_scoreboard(make_worker: MakeWorker) -> None:
    first, second = make_worker(), make_worker()
    first.row[Field.STATE] = WorkerState.READY
    first.row[Field.CONNECTIONS] = 5
    assert first.row.index != second.row.index
    assert second.row.least_loaded_peer(0, 1) == 5


def test_scoreboard_is_taken_by_descriptor(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.memfd_create("scoreboard")
    board = Scoreboard.create_in(descriptor, 4)
    monkeypatch.setenv(SCOREBOARD_FD, str(descriptor))
    make_worker()
    os.close(descriptor)
    (row,) = board.rows()
    assert row.state is WorkerState.SPAWNED


def test_bad_scoreboard_descriptor_is_refused_before_the_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCOREBOARD_FD, "three")
    with pytest.raises(ConfigurationError, match=r"^OUTRIDER_SCOREBOARD_FD=three: a descriptor's number is needed"):
        check()


@pytest.mark.parametrize(
    "timeout, stall_warning, period",
    [(30, 1.0, 0.25), (0, 0.0, 0.25), (30, 0.2, 0.05), (1, 1.0, 0.125), (30, 0.001, 0.02)],
)
def test_tick_is_as_fast_as_the_watch_needs(
    make_worker: MakeWorker, timeout: int, stall_warning: float, period: float
) -> None:
    worker = make_worker(timeout=timeout)
    worker._settings = load_settings(worker.cfg, {"OUTRIDER_STALL_WARNING": str(stall_warning)})
    assert worker._tick_period() == period


# -- importing the application


def test_application_is_imported(make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker.load_wsgi()
    assert worker.wsgi is app


def test_factory_is_called(make_worker: MakeWorker) -> None:
    worker = make_worker(load=lambda: lambda: app)
    worker._settings = load_settings(worker.cfg, {"OUTRIDER_APP_FACTORY": "yes"})
    worker.load_wsgi()
    assert worker.wsgi is app


def raising(error: BaseException) -> Callable[[], Any]:
    def load() -> Any:
        raise error

    return load


def import_failure(worker: UvicornWorker) -> str:
    with pytest.raises(AppImportError) as caught:
        worker.load_wsgi()
    return str(caught.value)


@pytest.mark.parametrize("missing", ["test", "test.inner"])
def test_missing_module_is_one_line(make_worker: MakeWorker, missing: str) -> None:
    worker = make_worker(load=raising(ModuleNotFoundError(f"No module named {missing!r}", name=missing)))
    worker.app.app_uri = "test.inner:app"
    message = import_failure(worker)
    assert message.startswith(f"Can't import the application 'test.inner:app': No module named {missing!r}. Check")
    assert lines_of(worker) == []


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'x'", name="x"), ImportError("broken"), ValueError("broken")]
)
def test_failing_import_logs_its_traceback(make_worker: MakeWorker, error: Exception) -> None:
    worker = make_worker(load=raising(error))
    assert import_failure(worker) == f"The application raised while it was imported: {error!r}"
    assert lines_of(worker) == ["Exception while importing the application"]


def test_message_of_gunicorn_is_kept(make_worker: MakeWorker) -> None:
    worker = make_worker(load=raising(AppImportError("Failed to find attribute 'app' in 'test'.")))
    assert import_failure(worker) == "Failed to find attribute 'app' in 'test'."
    assert lines_of(worker) == []


def test_what_is_no_application_is_refused_by_name(make_worker: MakeWorker) -> None:
    assert import_failure(make_worker(load=lambda: 7)).startswith("'test:app' is of type int")


def test_what_an_application_of_the_users_own_returns_is_named_by_its_class(make_worker: MakeWorker) -> None:
    worker = make_worker(load=lambda: 7)
    worker.app = SimpleNamespace(wsgi=lambda: 7)
    assert import_failure(worker).startswith("'SimpleNamespace' is of type int")


def syntax_error(path: str | None) -> SyntaxError:
    return SyntaxError("invalid syntax", (path, 1, 1, "def", 1, 3))


async def answer_of(application: Any, kind: str = "http") -> list[Any]:
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    await application({"type": kind}, None, send)
    return sent


@pytest.mark.parametrize("path, has_reloader, files", [("a.py", True, ["a.py"]), (None, True, []), ("a.py", False, [])])
def test_syntax_error_is_shown_under_reload(
    make_worker: MakeWorker, path: str | None, files: list[str], *, has_reloader: bool
) -> None:
    worker = make_worker(load=raising(syntax_error(path)), reload=True)
    watched: list[str] = []
    worker.reloader = SimpleNamespace(add_extra_file=watched.append) if has_reloader else None
    worker.load_wsgi()
    assert watched == files
    start, body = asyncio.run(answer_of(worker.wsgi))
    assert start["status"] == 500
    assert b"SyntaxError: invalid syntax" in body["body"]
    assert asyncio.run(answer_of(worker.wsgi, "lifespan")) == []


def test_syntax_error_without_reload_ends_the_boot(make_worker: MakeWorker) -> None:
    assert "SyntaxError" in import_failure(make_worker(load=raising(syntax_error("a.py"))))


# -- signals and stops


class FakeServer:
    """Keeps how it was told to stop."""

    def __init__(self) -> None:
        self.stops: list[Stop] = []

    def stop(self, how: Stop, asked_at: float | None) -> None:
        assert asked_at is None
        self.stops.append(how)


def with_server(worker: UvicornWorker) -> list[Stop]:
    server = FakeServer()
    worker._server = cast("Server", server)
    return server.stops


def test_quick_stop_runs_worker_int_once(make_worker: MakeWorker) -> None:
    calls: list[Any] = []
    worker = make_worker(worker_int=calls.append)
    worker._request_quick_stop()
    stops = with_server(worker)
    worker._request_quick_stop()
    assert calls == [worker]
    assert stops == [Stop.QUICK]
    assert not worker.alive


def test_failing_worker_int_does_not_hinder_the_stop(make_worker: MakeWorker) -> None:
    def worker_int(_: Any) -> None:
        raise ValueError("no")

    worker = make_worker(worker_int=worker_int)
    stops = with_server(worker)
    worker._request_quick_stop()
    assert stops == [Stop.QUICK]
    assert lines_of(worker) == ["Exception in worker_int hook"]


def test_failing_worker_abort_does_not_hinder_the_abort(make_worker: MakeWorker) -> None:
    def worker_abort(_: Any) -> None:
        raise ValueError("no")

    with pytest.raises(SystemExit) as ending:
        make_worker(worker_abort=worker_abort).handle_abort(signal.SIGABRT, None)
    assert ending.value.code == 1


def test_drain_may_be_asked_for_before_there_is_a_server(make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker._request_drain()
    assert not worker.alive


def test_worker_of_another_parent_drains(make_worker: MakeWorker) -> None:
    worker = make_worker()
    stops = with_server(worker)
    watchdog = with_watchdog(worker)
    worker._tick()
    assert watchdog.beats == 1
    assert stops == []
    worker.ppid += 1
    worker._tick()
    worker._tick()
    assert stops == [Stop.DRAIN]
    assert lines_of(worker) == [f"Parent changed, shutting down: {worker}"]


@pytest.mark.parametrize(
    "timeout, silent, is_orphan, is_aborted",
    [(4, 4.5, True, True), (4, 3.5, True, False), (4, 4.5, False, False), (0, 8.0, True, True), (0, 6.0, True, False)],
)
def test_orphan_whose_loop_hangs_aborts_itself(
    make_worker: MakeWorker, timeout: int, silent: float, *, is_orphan: bool, is_aborted: bool
) -> None:
    worker = make_worker(timeout=timeout, graceful_timeout=7)
    worker._config = ServerConfig.from_gunicorn(worker.cfg, worker._settings)
    watchdog = with_watchdog(worker)
    worker.ppid += is_orphan
    worker._abort_if_unwatched(silent)
    worker._abort_if_unwatched(silent)  # the abort does not come at once; it must not be asked for again
    assert len(watchdog.expiries) == is_aborted


# -- under a supervisor


@pytest.mark.usefixtures("supervised")
def test_row_has_the_number_of_the_generation(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_worker().row[Field.GENERATION] == 3
    monkeypatch.delenv("OUTRIDER_SUPERVISOR_PID")
    monkeypatch.delenv("OUTRIDER_SUPERVISOR_GENERATION")
    assert make_worker().row[Field.GENERATION] == 0


def test_bad_supervisor_variable_is_refused_before_the_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_SUPERVISOR_PID", "one")
    with pytest.raises(ConfigurationError, match=r"^OUTRIDER_SUPERVISOR_PID=one: a number is needed"):
        check()


def lose_master(worker: UvicornWorker) -> None:
    """Let it look as if the parent that there is had taken the master's place."""
    worker.ppid = os.getpid()


@pytest.mark.usefixtures("supervised")
def test_supervisor_takes_over_a_ready_worker(make_worker: MakeWorker) -> None:
    worker = make_worker()
    stops = with_server(worker)
    with_watchdog(worker)
    worker.row[Field.STATE] = WorkerState.READY
    lose_master(worker)
    worker._tick()
    worker._tick()
    assert worker.alive
    assert stops == []
    assert worker.ppid == os.getppid()
    assert lines_of(worker) == ["The master is gone; the supervisor took over"]


@pytest.mark.usefixtures("supervised")
def test_worker_whose_supervisor_goes_as_well_drains(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker()
    stops = with_server(worker)
    with_watchdog(worker)
    worker.row[Field.STATE] = WorkerState.READY
    lose_master(worker)
    worker._tick()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    worker._tick()
    assert stops == [Stop.DRAIN]
    assert lines_of(worker)[1:] == [f"Parent changed, shutting down: {worker}"]


@pytest.mark.usefixtures("supervised")
def test_booting_worker_goes_with_its_master(make_worker: MakeWorker) -> None:
    worker = make_worker()
    stops = with_server(worker)
    with_watchdog(worker)
    worker.row[Field.STATE] = WorkerState.BOOTING
    lose_master(worker)
    worker._tick()
    assert stops == [Stop.DRAIN]
    assert lines_of(worker) == [f"Parent changed, shutting down: {worker}"]


@pytest.mark.usefixtures("supervised")
def test_draining_worker_goes_on_draining_without_its_master(make_worker: MakeWorker) -> None:
    worker = make_worker()
    stops = with_server(worker)
    with_watchdog(worker)
    worker.row[Field.STATE] = WorkerState.DRAINING
    worker.alive = False
    lose_master(worker)
    worker._tick()
    assert stops == []
    assert lines_of(worker) == []


@pytest.mark.usefixtures("supervised")
@pytest.mark.parametrize("is_noticed", [True, False])
@pytest.mark.parametrize("timeout, silent, is_aborted", [(4, 4.5, True), (4, 3.5, False), (0, 3600.0, False)])
def test_worker_of_the_supervisor_whose_loop_hangs_aborts_itself(
    make_worker: MakeWorker, timeout: int, silent: float, *, is_noticed: bool, is_aborted: bool
) -> None:
    worker = make_worker(timeout=timeout, graceful_timeout=7)
    worker._config = ServerConfig.from_gunicorn(worker.cfg, worker._settings)
    watchdog = with_watchdog(worker)
    if not is_noticed:
        lose_master(worker)  # the loop hangs, so that no tick has seen it
    worker._abort_if_unwatched(silent)
    worker._abort_if_unwatched(silent)
    assert len(watchdog.expiries) == is_aborted


@pytest.mark.usefixtures("supervised")
def test_worker_with_a_master_leaves_a_hang_to_it(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_SUPERVISOR_PID", "1")
    monkeypatch.setattr(os, "getppid", lambda: 41)
    worker = make_worker(timeout=4)
    worker.ppid = 41
    watchdog = with_watchdog(worker)
    worker._abort_if_unwatched(3600.0)
    assert watchdog.expiries == []


@pytest.mark.usefixtures("supervised")
def test_title_says_the_state(make_worker: MakeWorker) -> None:
    titles: list[str] = []
    worker = make_worker(proc_name="shop")
    with_watchdog(worker)
    worker._title = ProcessTitle(worker._supervision, worker.cfg.proc_name, titles.append)
    for state in (WorkerState.BOOTING, WorkerState.READY, WorkerState.READY, WorkerState.DRAINING):
        worker.row[Field.STATE] = state
        worker._tick()
    assert titles == [f"outrider: worker [shop] g3 {state}" for state in ("booting", "ready", "draining")]


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")


@pytest.mark.usefixtures("supervised")
def test_title_is_the_process_title_from_the_import_on(fork: Fork) -> None:
    titles: list[str] = []

    # The application's import runs in the worker, so what it sees comes back in an answer.
    async def tell(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": "".join(titles).encode()})

    def load() -> Any:
        titles.append(title_of(os.getpid()))
        return tell

    worker = fork(load, asgi_lifespan="off", proc_name="shop")
    assert b"outrider: worker [shop] g3 booting" in worker.get()
    until(lambda: title_of(worker.pid) == "outrider: worker [shop] g3 ready")


def test_title_without_a_supervisor_is_gunicorns(fork: Fork) -> None:
    worker = fork(proc_name="shop")
    assert worker.get()
    assert title_of(worker.pid) == "gunicorn: worker [shop]"


def test_byte_in_the_pipe_is_taken(make_worker: MakeWorker) -> None:
    worker = make_worker()
    stops = with_server(worker)
    worker.PIPE = os.pipe()
    os.set_blocking(worker.PIPE[0], False)
    os.write(worker.PIPE[1], b"11")
    worker._note_stop()
    with pytest.raises(BlockingIOError):
        os.read(worker.PIPE[0], 1)
    assert stops == []
    worker.alive = False  # as the reloader's thread does
    worker._note_stop()
    assert stops == [Stop.DRAIN]
    for descriptor in worker.PIPE:
        os.close(descriptor)


def test_max_requests_retires_the_worker(make_worker: MakeWorker) -> None:
    worker = make_worker(max_requests=5)
    stops = with_server(worker)
    worker._retire_after_max_requests()
    assert stops == [Stop.DRAIN]
    assert lines_of(worker) == ["Autorestarting worker after 5 requests."]


def test_deadline_is_given_to_the_watchdog(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker()
    watchdog = with_watchdog(worker)
    worker._expect_end_by(7.0)
    ((deadline, action),) = watchdog.expiries
    assert deadline == 7.0
    killed: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    action()
    assert killed == [(os.getpid(), signal.SIGABRT)]


def test_abort_tells_what_ran(make_worker: MakeWorker) -> None:
    aborted: list[Any] = []
    worker = make_worker(worker_abort=aborted.append)
    with pytest.raises(SystemExit) as ending:
        worker.handle_abort(signal.SIGABRT, None)
    assert ending.value.code == 1
    assert aborted == [worker]
    (line,) = lines_of(worker)
    assert line.startswith(f"Worker aborted (pid: {worker.pid}). Requests in flight:\nnone\n")
    assert "test_abort_tells_what_ran" in line


@pytest.mark.parametrize("asgi_loop", ["uvloop", "asyncio"])
def test_usr2_logs_what_waits_and_the_worker_serves_on(fork: Fork, tmp_path: Path, asgi_loop: str) -> None:
    async def waiting(scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            (tmp_path / "waiting").touch()
            await asyncio.get_running_loop().create_future()
        await app(scope, _receive, send)

    worker = fork(lambda: waiting, asgi_loop=asgi_loop, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        until((tmp_path / "waiting").exists)
        for count in (1, 2):
            worker.signal(signal.SIGUSR2)
            until(lambda count=count: worker.log().count("Worker dump (pid: ") == count)  # type: ignore[misc]  # a lambda has no types
        assert "[WARNING] Worker dump" in worker.log()
        assert "Requests in flight:\nGET /wait from 127.0.0.1:" in worker.log()
        assert "in waiting\n    await asyncio.get_running_loop().create_future()" in worker.log()
        assert "Thread outrider-watchdog (" in worker.log()
        assert b"200 OK" in worker.get()
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 0


def test_usr2_tells_where_a_blocked_loop_is(fork: Fork, tmp_path: Path) -> None:
    async def blocking(scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] == "/block":
            (tmp_path / "blocked").touch()
            while not (tmp_path / "release").exists():
                pass
        await app(scope, _receive, send)

    worker = fork(lambda: blocking, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(b"GET /block HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        until((tmp_path / "blocked").exists)
        worker.signal(signal.SIGUSR2)
        until(lambda: "Worker dump (pid: " in worker.log())
        (tmp_path / "release").touch()
        assert b"200 OK" in read_all(client)
    thread = worker.log().partition("Thread MainThread (")[2].partition("Thread ")[0]
    assert "in blocking\n" in thread
    assert "runs, see the stack of its thread\n" in worker.log()


def test_usr2_during_the_import_tells_where_it_is(fork: Fork) -> None:
    def load() -> Any:
        os.kill(os.getpid(), signal.SIGUSR2)
        return app

    worker = fork(load)
    assert "in load\n    os.kill(os.getpid(), signal.SIGUSR2)\n" in worker.log()
    assert b"200 OK" in worker.get()


def test_usr2_between_fork_and_handlers_is_survived(fork: Fork) -> None:
    def post_fork(arbiter: Any, _: Any) -> None:
        signal.signal(signal.SIGUSR2, arbiter.signal)  # as gunicorn's master has it when it forks
        os.kill(os.getpid(), signal.SIGUSR2)

    worker = fork(post_fork=post_fork)
    assert signal.SIGUSR2 not in UvicornWorker.SIGNALS, "gunicorn would reset it to its default, which kills"
    assert b"200 OK" in worker.get()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signal_between_fork_and_handlers_is_not_lost(fork: Fork, tmp_path: Path, sig: int) -> None:
    def post_fork(arbiter: Any, _: Any) -> None:
        # gunicorn's master handles these signals when it forks.
        signal.signal(sig, arbiter.signal)
        signal.signal(signal.SIGTERM, arbiter.signal)
        os.kill(os.getpid(), sig)
        os.kill(os.getpid(), signal.SIGUSR1)

    def load() -> Any:
        (tmp_path / "imported").touch()

    signal.signal(signal.SIGUSR1, lambda *_: None)
    worker = fork(load, wait=False, post_fork=post_fork)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert worker.wait() == 0
    assert not (tmp_path / "imported").exists()


def test_term_during_the_import_ends_it(fork: Fork) -> None:
    def load() -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return threading.Event().wait()

    assert fork(load, wait=False).wait() == 0


@pytest.mark.parametrize("sig", [signal.SIGUSR1, signal.SIGHUP, signal.SIGWINCH])
def test_signal_that_means_nothing_during_the_boot_is_survived(fork: Fork, sig: int) -> None:
    def load() -> Any:
        os.kill(os.getpid(), sig)
        return app

    worker = fork(load)
    assert b"200 OK" in worker.get()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


# -- running


def hooks(directory: Path) -> dict[str, Any]:
    """Every hook of the worker, each of which writes its name into a file."""

    def note(name: str) -> None:
        with (directory / "hooks").open("a") as file:
            file.write(f"{name} ")

    return {
        "post_fork": lambda _arbiter, _worker: note("post_fork"),
        "post_worker_init": lambda _worker: note("post_worker_init"),
        "pre_request": lambda _worker, _request: note("pre_request"),
        "post_request": lambda _worker, _request: note("post_request"),
        "worker_int": lambda _worker: note("worker_int"),
        "worker_exit": lambda _arbiter, _worker: note("worker_exit"),
    }


@pytest.mark.parametrize("asgi_loop", ["auto", "uvloop", "asyncio"])
@pytest.mark.parametrize(
    "sig, interrupted", [(signal.SIGTERM, ""), (signal.SIGINT, "worker_int "), (signal.SIGQUIT, "worker_int ")]
)
def test_worker_serves_and_stops(fork: Fork, tmp_path: Path, asgi_loop: str, sig: int, interrupted: str) -> None:
    worker = fork(asgi_loop=asgi_loop, **hooks(tmp_path))
    answer = worker.get()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nserver: outrider\r\n" in answer.lower()
    until(lambda: worker.row[Field.REQUESTS] == 1)
    assert worker.row[Field.PID] == worker.pid
    worker.signal(sig)
    assert worker.wait() == 0
    assert worker.state is WorkerState.EXITED
    expected = f"post_fork post_worker_init pre_request post_request {interrupted}worker_exit "
    assert (tmp_path / "hooks").read_text() == expected


@pytest.mark.parametrize("asgi_loop", ["uvloop", "asyncio"])
def test_signals_that_mean_nothing_change_nothing(fork: Fork, asgi_loop: str) -> None:
    worker = fork(asgi_loop=asgi_loop, loglevel="debug")
    worker.signal(signal.SIGHUP)
    worker.signal(signal.SIGWINCH)
    until(lambda: "worker: SIGHUP ignored" in worker.log() and "worker: SIGWINCH ignored" in worker.log())
    assert b"200 OK" in worker.get()


def test_usr1_reopens_the_logs(fork: Fork) -> None:
    worker = fork()
    worker.log_path.rename(worker.log_path.with_suffix(".1"))
    worker.signal(signal.SIGUSR1)
    until(worker.log_path.exists)


@pytest.mark.parametrize("asgi_loop", ["uvloop", "asyncio"])
def test_abort_of_a_blocked_loop_names_the_request(fork: Fork, tmp_path: Path, asgi_loop: str) -> None:
    async def blocking(scope: Any, _receive: Any, _send: Any) -> None:
        if scope["type"] == "http":
            (tmp_path / "blocked").touch()
            threading.Event().wait()

    worker = fork(lambda: blocking, asgi_loop=asgi_loop, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        until((tmp_path / "blocked").exists)
        worker.signal(signal.SIGABRT)
        assert worker.wait() == 1
    assert "GET /slow from 127.0.0.1:" in worker.log()
    assert "in blocking\n" in worker.log()


@pytest.mark.parametrize(
    "sig, settings", [(signal.SIGINT, {}), (signal.SIGQUIT, {}), (signal.SIGTERM, {"graceful_timeout": 1})]
)
def test_stop_of_a_blocked_loop_has_its_deadline_too(
    fork: Fork, tmp_path: Path, sig: int, settings: dict[str, Any]
) -> None:
    async def blocking(_scope: Any, _receive: Any, _send: Any) -> None:
        (tmp_path / "blocked").touch()
        threading.Event().wait()

    worker = fork(lambda: blocking, asgi_lifespan="off", **settings)
    with worker.connect() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        until((tmp_path / "blocked").exists)
        worker.signal(sig)
        assert worker.wait() == 1
    assert "Requests in flight:\nGET /slow from 127.0.0.1:" in worker.log()
    assert "in blocking\n" in worker.log()


def test_worker_without_its_parent_ends(fork: Fork) -> None:
    def leave_parent(worker: Any) -> None:
        worker.ppid = 1

    worker = fork(wait=False, post_worker_init=leave_parent)
    assert worker.wait() == 0
    assert "Parent changed, shutting down" in worker.log()


def test_max_requests_ends_the_worker(fork: Fork) -> None:
    worker = fork(max_requests=2)
    worker.get()
    worker.get()
    assert worker.wait() == 0
    assert "Autorestarting worker after 2 requests." in worker.log()


def test_threads_size_the_default_executor(fork: Fork) -> None:
    def name_of_thread() -> str:
        barrier.wait(PATIENCE)
        return threading.current_thread().name

    async def threaded(_scope: Any, _receive: Any, send: Any) -> None:
        names = await asyncio.gather(*(asyncio.to_thread(name_of_thread) for _ in range(3)))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": " ".join(sorted(names)).encode()})

    barrier = threading.Barrier(3)
    worker = fork(lambda: threaded, threads=3, asgi_lifespan="off")
    assert b"outrider_0 outrider_1 outrider_2" in worker.get()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_fresh_worker_waits_for_its_application_when_drained(fork: Fork) -> None:
    async def slow(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()
        await asyncio.get_running_loop().create_future()

    worker = fork(lambda: slow, wait=False)
    until(lambda: worker.state is WorkerState.BOOTING)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


# -- exit codes


async def failing_lifespan(_scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


@pytest.mark.parametrize(
    "load, settings, status, line",
    [
        (lambda: failing_lifespan, {}, 3, "Application startup failed: no database"),
        (lambda: app, {"protocol": "uwsgi"}, 3, "protocol is 'uwsgi', but outrider.UvicornWorker allows only"),
        (lambda: app, {"certfile": "missing.pem"}, 3, "certfile 'missing.pem'"),
        (raising(ValueError("broken")), {}, 4, "ValueError: broken"),
    ],
)
def test_worker_that_can_not_boot_has_its_exit_code(
    fork: Fork, load: Callable[[], Any], settings: dict[str, Any], status: int, line: str
) -> None:
    worker = fork(load, wait=False, **settings)
    assert worker.wait() == status
    assert line in worker.log()
    assert ("Traceback" in worker.log()) == (status == 4)


def test_failed_probe_is_a_failed_boot(fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unhealthy(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body"})

    monkeypatch.setenv("OUTRIDER_PROBE_PATH", "/health")
    worker = fork(lambda: unhealthy, wait=False, asgi_lifespan="off")
    assert worker.wait() == 3
    assert "probe_path /health: the application answered 503, a 2xx is needed" in worker.log()


def test_user_that_may_not_be_changed_to_is_a_failed_boot(fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    def set_owner_process(*_: object, **__: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(util, "set_owner_process", set_owner_process)
    worker = fork(wait=False)
    assert worker.wait() == 3
    assert "this process may not become uid" in worker.log()
    assert "Traceback" not in worker.log()


def test_other_permission_errors_are_not_blamed_on_the_user(fork: Fork) -> None:
    def post_worker_init(_: Any) -> None:
        raise PermissionError("not yours")

    worker = fork(wait=False, post_worker_init=post_worker_init)
    assert worker.wait() == 3
    assert "PermissionError: not yours" in worker.log()
    assert "may not become" not in worker.log()


@pytest.mark.parametrize("asgi_loop", ["uvloop", "asyncio"])
def test_exit_in_a_request_does_not_end_the_service(fork: Fork, asgi_loop: str) -> None:
    async def leaving(_scope: Any, _receive: Any, _send: Any) -> None:
        sys.exit(3)  # the master would halt everything for it

    worker = fork(lambda: leaving, asgi_loop=asgi_loop, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 500 ")
    assert "SystemExit: 3" in worker.log()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def _raise(_worker: Any) -> None:
    raise ZeroDivisionError("the hook is wrong")


def test_abort_hook_that_raises_does_not_keep_the_worker(fork: Fork) -> None:
    worker = fork(worker_abort=_raise)
    worker.signal(signal.SIGABRT)
    assert worker.wait() == 1


def test_int_hook_that_raises_does_not_delay_the_end(fork: Fork) -> None:
    worker = fork(worker_int=_raise)
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 0
    assert "Exception in worker_int hook" in worker.log()


# -- the end


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signal_after_the_end_does_not_disturb_it(fork: Fork, sig: int) -> None:
    worker = fork(worker_exit=lambda _arbiter, _worker: os.kill(os.getpid(), sig))
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_quick_stop_leaves_stuck_threads_behind(fork: Fork, tmp_path: Path) -> None:
    async def threaded(_scope: Any, _receive: Any, _send: Any) -> None:
        (tmp_path / "started").touch()
        await asyncio.to_thread(threading.Event().wait)

    worker = fork(lambda: threaded, asgi_lifespan="off")
    with worker.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        until((tmp_path / "started").exists)
        asked = time.monotonic()
        worker.signal(signal.SIGQUIT)
        assert worker.wait() == 0
    assert time.monotonic() - asked < 5
    assert "Exiting although threads of the application still run" in worker.log()
