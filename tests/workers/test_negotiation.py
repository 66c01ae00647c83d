"""Who takes over a connection whose protocol is not known from the start, and with what."""

from __future__ import annotations

import asyncio
import math
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from outrider import negotiation
from outrider.http1 import HTTP1Connection
from outrider.http2 import HTTP2Connection
from outrider.negotiation import PREFACE, Negotiation
from outrider.runtime import ConnectionContext, Runtime
from outrider.tls_certificates import TLS
from outrider_testing.certificates import handshake, trusting_context
from outrider_testing.fakes import DrivenApp, FakeLog, FakeTransport, ManualLoop, make_context, make_runtime
from outrider_testing.server_fakes import GET, make_tls


class FakeHTTP2Connection(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self, context: ConnectionContext) -> None:
        self.context = context
        self.events: list[Any] = []
        self.deadline = math.inf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append(transport)

    def data_received(self, data: bytes) -> None:
        self.events.append(data)

    def expire(self) -> None: ...

    def begin_drain(self) -> None: ...

    def abort(self) -> None: ...


class TLSTransport(FakeTransport):
    """A transport whose handshake is over."""

    def __init__(self, loop: ManualLoop, protocol: asyncio.Protocol, tls: TLS, alpn: list[str]) -> None:
        super().__init__(loop, protocol, half_close=False)
        _, self.ssl_object = handshake(tls.context, trusting_context(alpn))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.ssl_object if name == "ssl_object" else super().get_extra_info(name, default)


class Talk:
    """A connection from its first byte on."""

    def __init__(self, loop: ManualLoop, tls: TLS | None = None, alpn: tuple[str, ...] = (), **config: Any) -> None:
        self.loop = loop
        self.app = DrivenApp(loop)
        self.runtime: Runtime = make_runtime(loop, self.app, **config)
        self.changes = 0
        self.runtime.on_change = self._count
        context = make_context(self.runtime, scheme="https" if tls else "http")
        factory: Any = FakeHTTP2Connection if self.runtime.config.http2 else None
        self.negotiation = Negotiation(context, tls, factory)
        self.runtime.connections.add(self.negotiation)
        self.transport = (
            TLSTransport(loop, self.negotiation, tls, list(alpn)) if tls else FakeTransport(loop, self.negotiation)
        )
        self.negotiation.connection_made(self.transport)

    @property
    def connection(self) -> Any:
        """The only connection that the server knows."""
        (connection,) = self.runtime.connections
        return connection

    def _count(self) -> None:
        self.changes += 1


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def tls(directory: Path) -> TLS:
    return make_tls(directory, http_protocols="h2,h1")


def test_http2_is_imported_where_it_is_served() -> None:
    assert negotiation.http2_factory() is HTTP2Connection


# -- over TLS


@pytest.mark.parametrize("alpn", [("h2",), ("http/1.1", "h2")])
def test_client_that_offers_http2_gets_it(loop: ManualLoop, tls: TLS, alpn: tuple[str, ...]) -> None:
    talk = Talk(loop, tls, alpn)
    assert isinstance(talk.connection, FakeHTTP2Connection)
    assert talk.connection.events == [talk.transport]
    talk.transport.feed(PREFACE)
    assert talk.connection.events == [talk.transport, PREFACE]


@pytest.mark.parametrize("alpn", [("http/1.1",), (), ("spdy/3",)])
def test_client_that_offers_no_http2_gets_http1(loop: ManualLoop, tls: TLS, alpn: tuple[str, ...]) -> None:
    talk = Talk(loop, tls, alpn)
    assert isinstance(talk.connection, HTTP1Connection)
    talk.transport.feed(GET)
    loop.run_ready()
    assert talk.app.call.scope["http_version"] == "1.1"


def test_http2_that_is_not_served_is_http1(loop: ManualLoop, tls: TLS) -> None:
    assert isinstance(Talk(loop, tls, ("h2",), http2=None).connection, HTTP1Connection)


def test_application_is_told_about_tls(loop: ManualLoop, tls: TLS, directory: Path) -> None:
    talk = Talk(loop, tls)
    talk.transport.feed(GET)
    loop.run_ready()
    extension = talk.app.call.scope["extensions"]["tls"]
    assert extension["tls_version"] == 0x0304
    assert extension["server_cert"] == (directory / "server.crt").read_text(encoding="ascii")
    assert extension["client_cert_name"] is None


def test_http2_is_told_about_tls(loop: ManualLoop, tls: TLS) -> None:
    context = Talk(loop, tls, ("h2",)).connection.context
    assert context.tls["tls_version"] == 0x0304
    assert context.scope_template["extensions"]["tls"] is context.tls


def test_connection_whose_tls_facts_cannot_be_read_is_let_go(
    loop: ManualLoop, tls: TLS, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no certificate")

    monkeypatch.setattr(negotiation, "tls_extension", fail)
    talk = Talk(loop, tls)
    loop.run_ready()
    assert talk.transport.was_aborted()
    assert not talk.runtime.connections
    assert talk.changes == 1
    log = cast("FakeLog", talk.runtime.log)
    assert [type(each) for each in log.exceptions] == [ValueError]
    assert log.messages("error") == ["Can't open the connection of 192.0.2.7:54321"]


# -- on cleartext


def cleartext(loop: ManualLoop, **config: Any) -> Talk:
    return Talk(loop, http2_cleartext=True, **config)


@pytest.mark.parametrize("split", range(1, len(PREFACE)))
def test_preface_may_come_in_pieces(loop: ManualLoop, split: int) -> None:
    talk = cleartext(loop)
    talk.transport.feed(PREFACE[:split])
    assert talk.runtime.connections == {talk.negotiation}
    talk.transport.feed(PREFACE[split:] + b"frames")
    assert talk.connection.events == [talk.transport, PREFACE + b"frames"]
    talk.transport.feed(b"more")
    assert talk.connection.events[-1] == b"more"


def test_request_of_http1_is_handed_on(loop: ManualLoop) -> None:
    talk = cleartext(loop)
    talk.transport.feed(GET[:10])
    assert isinstance(talk.connection, HTTP1Connection)
    talk.transport.feed(GET[10:])
    loop.run_ready()
    scope = talk.app.call.scope
    assert scope["path"] == "/"
    assert "tls" not in scope["extensions"]


def test_request_that_begins_like_the_preface_is_handed_on_whole(loop: ManualLoop) -> None:
    talk = cleartext(loop)
    request = b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n"
    for position in range(len(request)):
        talk.transport.feed(request[position : position + 1])
    loop.run_ready()
    assert talk.app.call.scope["method"] == "PROPFIND"


def test_client_that_sends_nothing_is_closed(loop: ManualLoop) -> None:
    talk = cleartext(loop, header_timeout=4.0)
    assert talk.negotiation.deadline == talk.runtime.now + 4.0
    talk.negotiation.expire()
    loop.run_ready()
    assert talk.transport.closing
    assert not talk.runtime.connections


def test_client_whose_first_bytes_are_still_to_be_read_is_not_closed(loop: ManualLoop) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        talk = cleartext(loop)
        talk.transport.socket = ours  # type: ignore[assignment]  # a real one, to be looked at
        theirs.send(GET)
        talk.negotiation.expire()
        assert not talk.transport.is_closing()
        ours.recv(4096)
        talk.negotiation.expire()
        assert talk.transport.is_closing()
        assert theirs.recv(1) == b""


def test_silence_may_be_unlimited(loop: ManualLoop) -> None:
    assert cleartext(loop, header_timeout=0.0).negotiation.deadline == math.inf


@pytest.mark.parametrize("sent", [b"", b"PRI * ", PREFACE[:-1]])
def test_client_that_leaves_in_the_preface_is_let_go(loop: ManualLoop, sent: bytes) -> None:
    talk = cleartext(loop)
    talk.transport.feed(sent)
    talk.transport.feed_eof()
    loop.run_ready()
    assert talk.transport.closing
    assert not talk.runtime.connections
    assert talk.transport.written == b""


def test_connection_that_is_lost_is_forgotten(loop: ManualLoop) -> None:
    talk = cleartext(loop)
    talk.transport.lose()
    assert not talk.runtime.connections
    assert talk.changes == 1


def test_connection_is_reset_with_the_others(loop: ManualLoop) -> None:
    talk = cleartext(loop)
    talk.negotiation.begin_drain()
    talk.negotiation.abort()
    loop.run_ready()
    assert talk.transport.was_aborted()
    assert not talk.runtime.connections


def test_connection_that_is_not_open_yet_has_nothing_to_reset(loop: ManualLoop) -> None:
    runtime = make_runtime(loop, DrivenApp(loop))
    negotiation = Negotiation(make_context(runtime), None, None)
    negotiation.abort()
    assert negotiation.deadline == math.inf
