"""The worker class: its configuration, its row in the scoreboard, and how it imports the application."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from gunicorn.config import Config
from gunicorn.errors import AppImportError
from gunicorn.glogging import Logger

import outrider
from outrider.errors import ConfigurationError
from outrider.scoreboard import Field, Scoreboard, WorkerState
from outrider.settings import load_settings
from outrider.worker import SCOREBOARD_FD, UvicornWorker
from outrider_testing.forked_worker import App
from outrider_testing.waiting import until
from outrider_testing.worker_fakes import Fork, MakeWorker, WorkerLog, app, check_config, lines_of, raising

pytestmark = pytest.mark.usefixtures("fresh_process")


# -- configuration


def test_class_is_imported_on_first_use() -> None:
    assert outrider.UvicornWorker is UvicornWorker
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        outrider.Nothing  # noqa: B018  # that is what is tested


def test_default_configuration_is_accepted() -> None:
    assert check_config() == []


@pytest.mark.parametrize(
    "setting, value, message",
    [
        ("protocol", "uwsgi", "protocol is 'uwsgi'"),
        ("certfile", "missing.pem", "certfile 'missing.pem'"),
    ],
)
def test_bad_setting_is_refused_before_the_fork(setting: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        check_config(UvicornWorker, setting, value)


def test_bad_log_format_is_refused_before_the_fork(tmp_path: Path) -> None:
    cfg = Config()
    cfg.set("errorlog", str(tmp_path / "error.log"))
    cfg.set("access_log_format", "%(nonsense")
    with pytest.raises(ConfigurationError, match=r"^access_log_format"):
        UvicornWorker.check_config(cfg, Logger(cfg))


def test_each_worker_has_formatters_of_its_own(fork: Fork, tmp_path: Path) -> None:
    """What its master has would give the requests of all workers the same ids."""
    access_log = tmp_path / "access.log"
    fork(log_format="json", accesslog=str(access_log)).get()
    until(lambda: access_log.read_text().endswith("\n"))
    assert json.loads(access_log.read_text())["path"] == "/"


def test_bad_variable_is_refused_before_the_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_HEADER_TIMEOUT", "soon")
    with pytest.raises(ConfigurationError, match=r"^header_timeout is 'soon'"):
        check_config()


class WithKwargs(UvicornWorker):
    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "timeout_keep_alive": 7,
        "server_header": False,
        "log_level": "debug",
        "ws": "wsproto",
    }


def test_config_kwargs_of_a_subclass_are_taken(make_worker: MakeWorker) -> None:
    (note,) = check_config(WithKwargs)
    assert note.startswith("CONFIG_KWARGS of WithKwargs: ws='wsproto'")
    worker = make_worker(WithKwargs)
    assert worker.cfg.keepalive == 7
    assert worker._settings.server_header is False
    assert lines_of(worker) == []


class WithUnknownKwarg(UvicornWorker):
    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"timeout_keepalive": 7}


def test_unknown_config_kwarg_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'timeout_keepalive' is no keyword of uvicorn.Config"):
        check_config(WithUnknownKwarg)


def test_worker_accepts_keywords() -> None:
    cfg = Config()
    worker = UvicornWorker(age=1, ppid=1, sockets=[], app=App(cfg, lambda: app), timeout=15, cfg=cfg, log=WorkerLog())
    worker.tmp.close()
    assert worker.row.index is not None


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
        check_config()


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
