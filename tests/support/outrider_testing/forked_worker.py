"""A worker in a process of its own, forked by gunicorn's arbiter, without the rest of gunicorn."""

from __future__ import annotations

import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.config import Config

from outrider.scoreboard import Field, Row, WorkerState
from outrider.worker import UvicornWorker
from outrider_testing.waiting import until

PATIENCE = 20.0


class App:
    """What gunicorn calls an application: configuration, and how to get the ASGI callable."""

    app_uri = "test:app"

    def __init__(self, cfg: Any, load: Callable[[], Any]) -> None:
        self.cfg = cfg
        self._load = load

    def wsgi(self) -> Any:
        """Import, as gunicorn calls it."""
        return self._load()


class ListenerOf:
    """A listening socket in gunicorn's wrapping."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def fileno(self) -> int:
        """Be a file."""
        return self.sock.fileno()


class ForkedWorker:
    """One worker, with the errors it logs in a file and its row in a scoreboard of its own."""

    def __init__(
        self,
        directory: Path,
        load: Callable[[], Any],
        worker_class: type[UvicornWorker] = UvicornWorker,
        **settings: Any,
    ) -> None:
        self.log_path = directory / "error.log"
        self.cfg = Config()
        for name, value in {"errorlog": str(self.log_path), "worker_class": worker_class, **settings}.items():
            self.cfg.set(name, value)
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(16)
        self.arbiter = Arbiter(App(self.cfg, load))
        self.arbiter.pid = os.getpid()
        self.arbiter.WORKERS = {}
        self.arbiter.LISTENERS = [ListenerOf(self.sock)]
        self.pid = 0
        self._status: int | None = None

    def start(self) -> ForkedWorker:
        """Fork."""
        parent = os.getpid()
        status = 0
        try:
            self.pid = self.arbiter.spawn_worker()
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else 1
        except BaseException:  # noqa: BLE001  # the child must not go on with the test
            status = 70
            traceback.print_exc()
        finally:
            if os.getpid() != parent:
                threading._shutdown()  # type: ignore[attr-defined]  # as Python does at its exit
                os._exit(status & 0xFF)
        return self

    def start_and_wait(self) -> ForkedWorker:
        """Fork, and wait until the worker is ready."""
        self.start()
        until(lambda: self.state is WorkerState.READY or self._has_ended(), PATIENCE, what="worker ready")
        assert self._status is None, self.log()
        return self

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for the end: the exit code, or the negative number of a signal."""
        until(self._has_ended, PATIENCE, what="worker ended")
        assert self._status is not None
        return self._status

    def log(self) -> str:
        """The error log."""
        return self.log_path.read_text(encoding="utf-8") if self.log_path.exists() else ""

    def get(self, path: str = "/") -> bytes:
        """Send a request; everything that comes back until the worker closes."""
        with self.connect() as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            return read_all(client)

    def connect(self) -> socket.socket:
        """A connection to the worker."""
        return socket.create_connection(self.sock.getsockname(), PATIENCE)

    @property
    def row(self) -> Row:
        """The worker's row, as the master has it."""
        (worker,) = self.arbiter.WORKERS.values()
        row: Row = worker.row
        return row

    @property
    def state(self) -> WorkerState:
        """The state in the scoreboard."""
        return WorkerState(self.row[Field.STATE])

    def close(self) -> None:
        """Leave nothing behind, not even a worker that hangs."""
        if self.pid and not self._has_ended():
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        for worker in self.arbiter.WORKERS.values():
            worker.tmp.close()
        self.sock.close()

    def _has_ended(self) -> bool:
        if self._status is None and self.pid:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None


def read_all(client: socket.socket) -> bytes:
    """Read until the other side closes."""
    received = b""
    while data := client.recv(65536):
        received += data
    return received
