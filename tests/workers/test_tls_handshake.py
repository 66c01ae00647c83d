"""What is said of handshakes that fail, and what the transports are asked for."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from outrider.tls_closing import SHUTDOWN_TIMEOUT
from outrider.tls_handshake import BUFFER_SIZE, FAILURE_LOG_PERIOD, Handshakes
from outrider_testing.certificates import Authority, trusting_context
from outrider_testing.fakes import FakeLog, ManualLoop, constant, make_runtime
from outrider_testing.server_fakes import make_tls

CLIENT = ("192.0.2.7", 40000)


@pytest.fixture
def handshakes(loop: ManualLoop, tmp_path_factory: pytest.TempPathFactory) -> Handshakes:
    return Handshakes(make_runtime(loop, constant(b"")), make_tls(tmp_path_factory.mktemp("tls")))


def log_of(handshakes: Handshakes) -> FakeLog:
    log = handshakes._runtime.log
    assert isinstance(log, FakeLog)
    return log


def failure(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] words (_ssl.c:1)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    "error, said",
    [
        (failure("HTTP_REQUEST"), "the client speaks HTTP without TLS."),
        (failure("TLSV1_ALERT_UNKNOWN_CA"), "the client does not trust the authority of the server's certificate."),
        (failure("WRONG_VERSION_NUMBER"), "wrong version number."),
        (ssl.SSLError(1, "something"), "something"),
        (TimeoutError("it took too long"), "it took too long."),
        (ConnectionAbortedError("SSL handshake is taking longer"), "SSL handshake is taking longer."),
    ],
)
def test_failure_is_told_in_words(handshakes: Handshakes, error: OSError, said: str) -> None:
    handshakes.report(CLIENT, error)
    (message,) = log_of(handshakes).messages("info")
    assert message.startswith("TLS handshake with 192.0.2.7:40000 failed: ")
    assert said in message


def test_refused_client_certificate_is_told_with_the_reason(handshakes: Handshakes) -> None:
    error = ssl.SSLCertVerificationError(1, "failed")
    error.verify_message = "certificate has expired"
    handshakes.report(None, error)
    (message,) = log_of(handshakes).messages("info")
    assert message == (
        "TLS handshake with a unix socket failed: the client's certificate is not accepted, certificate has expired."
    )


def test_many_failures_are_counted(handshakes: Handshakes, loop: ManualLoop) -> None:
    for _ in range(3):
        handshakes.report(CLIENT, failure("HTTP_REQUEST"))
    loop.advance(FAILURE_LOG_PERIOD)
    handshakes.report(CLIENT, failure("HTTP_REQUEST"))
    first, second = log_of(handshakes).messages("info")
    assert second == f"{first} (not reported since the last one: 2 more of these)"


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), BrokenPipeError(), ssl.SSLEOFError(8, "eof"), ssl.SSLZeroReturnError(6, "end")]
)
def test_client_that_just_leaves_is_no_news(handshakes: Handshakes, error: OSError) -> None:
    handshakes.report(CLIENT, error)
    assert log_of(handshakes).messages("info") == []
    (message,) = log_of(handshakes).messages("debug")
    assert not message.endswith(": .")


# -- failures of OpenSSL


def error_of_server(server_context: ssl.SSLContext, client_context: ssl.SSLContext, tail: bytes) -> ssl.SSLError:
    """How a handshake in memory fails for the server; `tail` is what the client sends behind its first message."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        with suppress(ssl.SSLError):
            client.do_handshake()
        to_server.write(tail)
        tail = b""
        try:
            server.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            return error
    raise AssertionError("the handshake did not fail")


def trust_nobody(_: ssl.SSLContext, client: ssl.SSLContext) -> None:
    client.verify_mode = ssl.CERT_REQUIRED


def want_certificates(server: ssl.SSLContext, _: ssl.SSLContext) -> None:
    server.verify_mode = ssl.CERT_REQUIRED


def differ_in_ciphers(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    server.set_ciphers("ECDHE+AES256")
    client.set_ciphers("ECDHE+AES128")


def differ_in_versions(server: ssl.SSLContext, _: ssl.SSLContext) -> None:
    server.maximum_version = server.minimum_version = ssl.TLSVersion.TLSv1_3


def agree(*_: ssl.SSLContext) -> None: ...


CERTIFICATE_UNKNOWN = b"\x15\x03\x03\x00\x02\x02\x2e"  # an alert (RFC 5246 §7.2), as browsers send it


@pytest.mark.parametrize(
    "arrange, tail, said",
    [
        (trust_nobody, b"", "the client does not trust the authority of the server's certificate"),
        (want_certificates, b"", "the client sent no certificate, and cert_reqs wants one"),
        (differ_in_ciphers, b"", "the client has no cipher in common with `ciphers` and the key"),
        (differ_in_versions, b"", "the client's TLS is too old"),
        (agree, CERTIFICATE_UNKNOWN, "the client does not accept the server's certificate"),
    ],
)
def test_reason_is_known_as_openssl_calls_it(
    handshakes: Handshakes, arrange: Callable[[ssl.SSLContext, ssl.SSLContext], None], tail: bytes, said: str
) -> None:
    server_context, client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), trusting_context()
    Authority().ca.issue_cert("localhost").configure_cert(server_context)
    server_context.maximum_version = client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    arrange(server_context, client_context)
    handshakes.report(CLIENT, error_of_server(server_context, client_context, tail))
    assert log_of(handshakes).messages("info") == [f"TLS handshake with 192.0.2.7:40000 failed: {said}."]


# -- what the transports are asked for


class FakeTransports:
    """Keeps what connections are opened with, in place of aiofastnet and of the loop."""

    def __init__(self, loop: ManualLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.read_buffer_limit: int | None = None
        module = type(sys)("aiofastnet")
        module.connect_accepted_socket = self.connect_fast  # type: ignore[attr-defined]  # it is made here
        monkeypatch.setitem(sys.modules, "aiofastnet", module)
        monkeypatch.setattr(loop, "connect_accepted_socket", self.connect)

    async def connect_fast(self, _loop: Any, _make: Any, _sock: Any, **options: Any) -> None:
        self.asked.append(("aiofastnet", options))

    async def connect(self, _make: Any, _sock: Any, **options: Any) -> tuple[FakeTransports, None]:
        self.asked.append(("loop", options))
        return self, None

    def set_read_buffer_limits(self, high: int) -> None:
        self.read_buffer_limit = high


@pytest.mark.parametrize("header_timeout, handshake_timeout", [(4.0, 4.0), (0.0, None)])
@pytest.mark.parametrize("kind", ["aiofastnet", "loop"])
def test_handshake_has_the_time_of_a_head_and_the_end_as_long_as_it_takes(
    loop: ManualLoop,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    header_timeout: float,
    handshake_timeout: float | None,
) -> None:
    transports = FakeTransports(loop, monkeypatch)
    tls = make_tls(tmp_path_factory.mktemp("tls"), fast_tls=kind == "aiofastnet")
    handshakes = Handshakes(make_runtime(loop, constant(b""), header_timeout=header_timeout), tls)
    with socket.socket() as sock:
        loop.run_until_complete(handshakes.open(sock, asyncio.Protocol()))
    options = {
        "ssl": tls.context,
        "ssl_handshake_timeout": handshake_timeout,
        "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT,
    }
    if kind == "aiofastnet":
        options |= {"ssl_incoming_bio_size": BUFFER_SIZE, "ssl_outgoing_bio_size": BUFFER_SIZE}
    assert transports.asked == [(kind, options)]
    assert transports.read_buffer_limit == (None if kind == "aiofastnet" else 1)
