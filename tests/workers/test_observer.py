"""The observer: gunicorn's request hooks and the access log, called only where somebody asked for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from gunicorn.config import Config

from outrider.access_log import AccessLog
from outrider.observer import Observer
from outrider_testing.fakes import Client, ManualLoop, constant, make_context, make_runtime

SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/a",
    "raw_path": b"/a",
    "query_string": b"b=1",
    "root_path": "",
    "headers": [(b"host", b"example")],
    "client": ("192.0.2.1", 50000),
    "server": ("192.0.2.2", 8000),
}
HEADERS = [(b"content-length", b"2")]


class FakeAccessLog:
    """Keeps what it is to write."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.lines: list[tuple[Any, ...]] = []

    def write(self, *line: Any) -> None:
        self.lines.append(line)


class FakeWorker:
    """A worker with hooks."""

    def __init__(self, **hooks: Any) -> None:
        self.cfg = Config()
        for name, hook in hooks.items():
            self.cfg.set(name, hook)
        self.failures: list[str] = []
        self.log = SimpleNamespace(exception=self.failures.append)


def observe(access_log: FakeAccessLog | None = None, **hooks: Any) -> tuple[Observer, FakeWorker]:
    worker = FakeWorker(**hooks)
    log = access_log or FakeAccessLog(enabled=False)
    return Observer(worker, cast("AccessLog", log)), worker


def test_nothing_is_watched_by_default() -> None:
    observer, _ = observe()
    assert not observer.watches
    observer.finished(observer.started(SCOPE), SCOPE, 200, HEADERS, 2)


def test_access_log_gets_the_request() -> None:
    log = FakeAccessLog(enabled=True)
    observer, _ = observe(log)
    assert observer.watches
    observer.finished(observer.started(SCOPE), SCOPE, 200, HEADERS, 2)
    ((scope, status, headers, sent, microseconds, close_code),) = log.lines
    assert (scope, status, headers, sent, close_code) == (SCOPE, 200, HEADERS, 2, None)
    assert 0 <= microseconds < 10_000_000


def test_pre_request_sees_worker_and_request() -> None:
    seen = []

    def pre_request(worker: Any, request: Any) -> None:
        seen.append((worker, request.method, request.uri))

    observer, worker = observe(pre_request=pre_request)
    assert observer.watches
    observer.started(SCOPE)
    assert seen == [(worker, "GET", "/a?b=1")]


def test_post_request_sees_worker_request_environ_and_response() -> None:
    seen = []

    def post_request(worker: Any, request: Any, environ: Any, response: Any) -> None:
        seen.append((worker, request.path, environ["PATH_INFO"], response.status_code))

    observer, worker = observe(post_request=post_request)
    assert observer.watches
    observer.finished(observer.started(SCOPE), SCOPE, 404, HEADERS, 2)
    assert seen == [(worker, "/a", "/a", 404)]


@pytest.mark.parametrize("parameters", [2, 3])
def test_post_request_may_take_fewer_arguments(parameters: int) -> None:
    seen: list[tuple[Any, ...]] = []
    hooks = {
        2: lambda worker, request: seen.append((worker, request)),
        3: lambda worker, request, environ: seen.append((worker, request, environ)),
    }
    observer, _ = observe(post_request=hooks[parameters])
    observer.finished(observer.started(SCOPE), SCOPE, 200, HEADERS, 2)
    assert len(seen[0]) == parameters


def test_failing_post_request_is_logged() -> None:
    def post_request(worker: Any, request: Any, environ: Any, response: Any) -> None:  # noqa: ARG001  # a hook's
        raise ValueError("no")

    observer, worker = observe(post_request=post_request)
    observer.finished(observer.started(SCOPE), SCOPE, 200, HEADERS, 2)
    assert worker.failures == ["Exception in post_request hook"]


def test_failing_pre_request_becomes_a_500(loop: ManualLoop) -> None:
    def pre_request(worker: Any, request: Any) -> None:  # noqa: ARG001  # a hook's
        raise ValueError("no")

    observer, _ = observe(pre_request=pre_request)
    runtime = make_runtime(loop, constant())
    runtime.observer = observer
    client = Client(loop, make_context(runtime))
    client.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.answer().status == 500
    assert isinstance(client.log.exceptions[0], ValueError)


def test_hooks_watch_a_real_request(loop: ManualLoop) -> None:
    log = FakeAccessLog(enabled=True)
    observer, _ = observe(log)
    runtime = make_runtime(loop, constant(b"hello"))
    runtime.observer = observer
    client = Client(loop, make_context(runtime))
    client.feed(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.answer().status == 200
    ((scope, status, _, sent, *_),) = log.lines
    assert (scope["path"], status, sent) == ("/x", 200, 5)
