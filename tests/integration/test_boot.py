"""A worker that cannot serve says why, in a line where that is enough, and sets the exit code."""

from __future__ import annotations

import pytest

from outrider_testing.gunicorn_process import PROBE, GunicornProcess
from outrider_testing.serving import Serve

BOOT_ERROR = 3
LOAD_ERROR = 4

BROKEN = "outrider_testing.apps.broken"


def refuse(server: GunicornProcess, code: int) -> str:
    """Wait for the server's end, check its exit code and return its log."""
    assert server.wait() == code, server.log_text()
    return server.log_text()


# Applications that cannot be loaded


@pytest.mark.parametrize(
    "app, complaint",
    [
        ("no_such_module:app", "no_such_module"),
        ("outrider_testing.apps.no_such_module:app", "no_such_module"),
        (f"{BROKEN}:no_such_attribute", "no_such_attribute"),
        (f"{BROKEN}:not_callable", "not_callable|callable"),
    ],
)
def test_worker_refuses_app_path_in_one_line(serve: Serve, app: str, complaint: str) -> None:
    server = serve(app, workers=0)
    log = refuse(server, LOAD_ERROR)
    server.until_log(complaint)
    assert "Traceback" not in log


def test_worker_shows_traceback_of_app_that_raises_at_import(serve: Serve) -> None:
    log = refuse(serve("outrider_testing.apps.raises_at_import:app", workers=0), LOAD_ERROR)
    assert "Traceback" in log
    assert "raises_at_import.py" in log
    assert "the application module fails on purpose" in log


def test_worker_shows_where_app_imports_what_is_missing(serve: Serve) -> None:
    server = serve("outrider_testing.apps.imports_missing:app", workers=0)
    log = refuse(server, LOAD_ERROR)
    assert "imports_missing.py" in log
    assert "a_dependency_that_is_not_installed" in log


@pytest.mark.parametrize("app", ["no_such_module:app", "outrider_testing.apps.raises_at_import:app"])
def test_master_refuses_app_it_cannot_preload(serve: Serve, app: str) -> None:
    server = serve(app, "--preload", workers=0)
    assert server.wait() != 0
    assert app.partition(":")[0].rpartition(".")[2] in server.log_text()


@pytest.mark.parametrize(
    "options, name, kind",
    [((), "wsgi", "WSGI"), ((), "asgi2", "ASGI ?2"), ((), "ASGI2", "ASGI ?2"), (("--preload",), "wsgi", "WSGI")],
)
def test_worker_refuses_other_interface_by_name(serve: Serve, options: tuple[str, ...], name: str, kind: str) -> None:
    server = serve(f"{BROKEN}:{name}", *options, workers=0)
    log = refuse(server, LOAD_ERROR)
    server.until_log(kind)
    assert "Traceback" not in log


# Factories


@pytest.mark.parametrize(
    "app, greeting",
    [
        ("outrider_testing.apps.probe:make()", b"made"),
        ("outrider_testing.apps.probe:make('built')", b"built"),
        ("outrider_testing.apps.probe:make(greeting='named')", b"named"),
    ],
)
def test_worker_serves_application_of_factory(serve: Serve, app: str, greeting: bytes) -> None:
    assert serve(app).get("/").body == greeting


# Lifespan


@pytest.mark.parametrize("options", [("on",), ("auto",), ("auto", "--preload")])
def test_worker_stops_when_startup_failed(serve: Serve, options: tuple[str, ...]) -> None:
    server = serve(f"{BROKEN}:startup_fails", "--asgi-lifespan", *options, workers=0)
    log = refuse(server, BOOT_ERROR)
    assert "the database is away" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_worker_stops_when_startup_raised(serve: Serve, mode: str) -> None:
    log = refuse(serve(f"{BROKEN}:startup_raises", "--asgi-lifespan", mode, workers=0), BOOT_ERROR)
    assert "crashed in lifespan.startup" in log


def test_worker_with_lifespan_on_stops_when_app_has_none(serve: Serve) -> None:
    log = refuse(serve(f"{BROKEN}:lifespan_raises", "--asgi-lifespan", "on", workers=0), BOOT_ERROR)
    assert "no idea what lifespan is" in log


@pytest.mark.parametrize(
    "app, mode", [("lifespan_raises", "auto"), ("lifespan_raises", "off"), ("startup_fails", "off")]
)
def test_worker_serves_without_lifespan(serve: Serve, app: str, mode: str) -> None:
    server = serve(f"{BROKEN}:{app}", "--asgi-lifespan", mode)
    assert server.get("/").status == 200
    assert "Traceback" not in server.log_text()


def test_worker_accepts_nothing_before_startup_is_complete(serve: Serve) -> None:
    server = serve(f"{BROKEN}:startup_waits_for_gate", workers=0)
    server.until((server.directory / "startup.held").exists, what="the startup")
    with server.connect() as connection:
        assert not connection.is_closed_by_peer(0.0)
        server.release("startup")
        connection.set_timeout(5.0)
        assert connection.request("GET", "/").body == b"started"


# The loop


@pytest.mark.parametrize("loop, is_uvloop", [("auto", True), ("uvloop", True), ("asyncio", False)])
def test_worker_runs_chosen_loop(serve: Serve, loop: str, is_uvloop: bool) -> None:
    server = serve(PROBE, "--asgi-loop", loop)
    packages = server.get("/identity").json()["loop"]
    assert "asyncio" in packages
    assert ("uvloop" in packages) is is_uvloop
