"""Fixtures for the tests of a server and of the worker class around it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config
from setproctitle import getproctitle, setproctitle

from outrider.runtime import ASGIApp
from outrider.settings import load_settings
from outrider.tls_certificates import TLS
from outrider.worker import UvicornWorker
from outrider_testing.fakes import ManualLoop
from outrider_testing.forked_worker import App, ForkedWorker
from outrider_testing.log_stage import FullPipe, LogStage, stuck_in
from outrider_testing.server_fakes import MakeScene, Scene, ScriptedSocket, make_tls
from outrider_testing.server_stage import MakeStage, Stage
from outrider_testing.worker_fakes import Fork, MakeWorker, WorkerLog, app

# A listener


@pytest.fixture
def make_scene(loop: ManualLoop) -> Iterator[MakeScene]:
    """Listeners that have not been told to accept."""
    scenes: list[Scene] = []

    def make(sock: ScriptedSocket | None = None, **options: Any) -> Scene:
        scenes.append(Scene(loop, sock, **options))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    """TLS with a certificate of its own."""
    return make_tls(tmp_path_factory.mktemp("tls"))


# Logs


@pytest.fixture
def logs() -> Iterator[LogStage]:
    """An error log and an access log."""
    with contextlib.closing(LogStage()) as logs:
        yield logs


@pytest.fixture
def full_pipe() -> Iterator[FullPipe]:
    """Into which no more goes."""
    with contextlib.closing(FullPipe()) as pipe:
        yield pipe


@pytest.fixture
def stuck_logs(logs: LogStage, full_pipe: FullPipe) -> Iterator[LogStage]:
    """Their writer hangs in the write of "first"."""
    with stuck_in(full_pipe, logs):
        yield logs


# A server


@pytest.fixture
def make_stage(loop: ManualLoop) -> Iterator[MakeStage]:
    """Servers that have not booted."""
    stages: list[Stage] = []

    def make(app: ASGIApp | None = None, **options: Any) -> Stage:
        stages.append(Stage(loop, app, **options))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    """A server that is ready."""
    stage = make_stage()
    stage.become_ready()
    return stage


# A scoreboard


@pytest.fixture
def memory_file() -> Iterator[int]:
    """A file in memory, for a scoreboard."""
    descriptor = os.memfd_create("scoreboard")
    yield descriptor
    os.close(descriptor)


# A worker


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test find what another worker has left in this process: scoreboard, TLS, handlers of logs, and title."""
    title = getproctitle()
    monkeypatch.setattr(UvicornWorker, "_board", None)
    monkeypatch.setattr(UvicornWorker, "_inherited_tls", None)
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)
    yield
    setproctitle(title)
    for name in ("gunicorn.access", "gunicorn.error"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.disabled = False
        logger.propagate = True


@pytest.fixture
def make_worker(fresh_process: None) -> Iterator[MakeWorker]:  # noqa: ARG001  # it comes first and ends last
    """Workers that stay in this process."""
    workers = []

    def make(worker_class: type[UvicornWorker] = UvicornWorker, load: Any = lambda: app, **settings: Any) -> Any:
        cfg = Config()
        for name, value in settings.items():
            cfg.set(name, value)
        worker = worker_class(1, os.getppid(), [], App(cfg, load), cfg.timeout / 2, cfg, WorkerLog())
        worker.pid = os.getpid()
        worker._settings = load_settings(cfg, {}, worker._overrides)
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        worker.tmp.close()


@pytest.fixture
def fork(tmp_path: Path, fresh_process: None) -> Iterator[Fork]:  # noqa: ARG001  # it comes first and ends last
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
