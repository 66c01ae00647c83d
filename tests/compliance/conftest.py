"""Servers for the compliance suites: one process for each way to reach it, for the whole session."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from outrider.http1 import HTTP1Connection
from outrider.http2 import HTTP2Connection
from outrider.http_stream import HTTPStream
from outrider.websocket_stream import WebSocketStream
from outrider_testing.certificates import Authority
from outrider_testing.gunicorn_process import GunicornProcess
from outrider_testing.http2_wire import Connect, WireClient
from outrider_testing.processes import is_running
from outrider_testing.serving import Serve, serving

APP = "outrider_testing.apps.compliance:app"
HTTP2 = ("--http-protocols", "h2,h1", "--http2-cleartext", "prior-knowledge")


@pytest.fixture
def freed() -> Iterator[None]:
    """Connections and requests that have ended are no more in memory when the test is over."""
    before = count_live()
    yield
    assert count_live() - before == Counter()


def count_live() -> Counter[str]:
    """How many connections and streams are in memory, by kind."""
    gc.collect()
    kinds = HTTP1Connection, HTTP2Connection, HTTPStream, WebSocketStream
    # Not isinstance(): that asks proxies for their class, and some of those that others left cannot tell.
    return Counter(type(each).__name__ for each in gc.get_objects() if issubclass(type(each), kinds))


@pytest.fixture(scope="session")
def serve_for_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start servers that serve all tests."""
    with serving(tmp_path_factory.mktemp("compliance")) as start:
        yield start


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Who signs the certificates."""
    return Authority()


@pytest.fixture(scope="session")
def authority_file(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The certificate of who signs, for a program."""
    return authority.write_authority(tmp_path_factory.mktemp("authority") / "ca.pem")


@pytest.fixture(scope="session")
def cleartext_server(serve_for_session: Serve) -> GunicornProcess:
    """HTTP/2 by prior knowledge, and WebSocket. Nobody is a proxy by name, from which more is taken."""
    return serve_for_session(APP, *HTTP2, "--forwarded-allow-ips", "*")


@pytest.fixture(scope="session")
def tls_server(
    serve_for_session: Serve, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> GunicornProcess:
    """The same over TLS."""
    certfile, keyfile = authority.write_pair(tmp_path_factory.mktemp("server"), "server", "localhost", "127.0.0.1")
    server = serve_for_session(APP, *HTTP2, "--certfile", certfile, "--keyfile", keyfile, workers=0)
    server.tls = authority.client_context()
    return server.wait_until_ready()


@pytest.fixture(scope="session", params=["h2c", "tls"])
def http2_server(request: pytest.FixtureRequest) -> GunicornProcess:
    """A server of HTTP/2, over cleartext and over TLS."""
    name = "cleartext_server" if request.param == "h2c" else "tls_server"
    server: GunicornProcess = request.getfixturevalue(name)
    return server


@pytest.fixture(scope="session")
def http2_worker(http2_server: GunicornProcess) -> int:
    """Its worker's pid."""
    (pid,) = http2_server.workers()
    return pid


@pytest.fixture
def connect(http2_server: GunicornProcess, http2_worker: int, authority: Authority) -> Iterator[Connect]:
    """Open connections to it; afterwards the same worker still serves and has logged no crash."""
    logged = len(http2_server.log_text())
    tls = authority.client_context(alpn=["h2"]) if http2_server.tls else None
    yield partial(WireClient, http2_server.address, tls)
    assert is_running(http2_worker)
    assert "Traceback" not in http2_server.log_text()[logged:]
