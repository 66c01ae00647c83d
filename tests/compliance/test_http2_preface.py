"""How an HTTP/2 connection begins, RFC 9113 §3.3 and §3.4, and §9.2 for TLS."""

from __future__ import annotations

import ssl

import pytest

from outrider_testing import http2_frames as h2
from outrider_testing.certificates import Authority
from outrider_testing.gunicorn_process import GunicornProcess
from outrider_testing.http2_cases import CLOSED, Case, ConnectionFault, Response, parametrize, play
from outrider_testing.http2_wire import Connect, WireClient
from outrider_testing.http_client import HTTPConnection, connect

GONE_WRONG = (ConnectionFault(h2.PROTOCOL_ERROR), CLOSED)

CASES = [
    Case("3.4", "the preface", [h2.PREFACE + h2.settings() + h2.get(1)], Response(1, body=b"hello"), bare=True),
    Case("3.4", "the preface and HEADERS", [h2.PREFACE + h2.get(1)], *GONE_WRONG, bare=True),
    Case("3.4", "the preface and PING", [h2.PREFACE + h2.ping()], *GONE_WRONG, bare=True),
    Case("3.4", "the preface and too large SETTINGS", [h2.PREFACE + h2.frame(h2.SETTINGS, 0, 0, bytes(16386))],
         ConnectionFault(h2.FRAME_SIZE_ERROR), *GONE_WRONG, bare=True),
    Case("3.4", "the preface and SETTINGS on a stream", [h2.PREFACE + h2.frame(h2.SETTINGS, 0, 1)], *GONE_WRONG,
         bare=True),
    Case("3.4", "the preface twice", [h2.PREFACE + h2.settings() + h2.PREFACE],
         ConnectionFault(h2.FRAME_SIZE_ERROR), *GONE_WRONG, bare=True),
]  # fmt: skip


@parametrize(CASES)
def test_server_takes_preface_as_specified(connect: Connect, case: Case) -> None:
    play(case, connect)


@pytest.mark.parametrize(
    "octets",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX" + h2.settings(),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + h2.settings(),
        b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n" + h2.settings(),
        b"INVALID CONNECTION PREFACE\r\n\r\n",
        h2.settings() + h2.get(1),
    ],
)
def test_server_closes_connection_with_wrong_preface(cleartext_server: GunicornProcess, octets: bytes) -> None:
    with HTTPConnection(cleartext_server.address) as connection:
        connection.send(octets)
        assert b"hello" not in connection.read_to_end()


@pytest.mark.parametrize("octets", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX" + h2.settings(), b"GET / HTTP/1.1\r\n\r\n"])
def test_server_closes_connection_with_wrong_preface_over_tls(
    tls_server: GunicornProcess, authority: Authority, octets: bytes
) -> None:
    with HTTPConnection(tls_server.address, tls=authority.client_context(alpn=["h2"])) as connection:
        connection.send(octets)
        assert b"hello" not in connection.read_to_end()


def test_client_that_sends_first_is_served_when_bytes_come_one_by_one(cleartext_server: GunicornProcess) -> None:
    with WireClient(cleartext_server.address) as client:
        for octet in h2.PREFACE + h2.settings() + h2.get(1):
            client.send(bytes([octet]))
        assert client.response(1).body == b"hello"


def test_server_agrees_to_what_the_client_prefers_over_tls(tls_server: GunicornProcess, authority: Authority) -> None:
    offers = {("h2",): "h2", ("h2", "http/1.1"): "h2", ("http/1.1", "h2"): "h2", ("http/1.1",): "http/1.1"}
    for offered, agreed in offers.items():
        context = authority.client_context(alpn=offered)
        with context.wrap_socket(connect(tls_server.address), server_hostname="localhost") as sock:
            assert sock.selected_alpn_protocol() == agreed


@pytest.mark.parametrize("alpn", [["http/1.1"], []])
def test_client_without_http2_is_served_over_tls(
    tls_server: GunicornProcess, authority: Authority, alpn: list[str]
) -> None:
    with HTTPConnection(tls_server.address, tls=authority.client_context(alpn=alpn)) as connection:
        assert connection.request("GET", "/").body == b"hello"


def test_server_refuses_tls_that_is_too_old(tls_server: GunicornProcess, authority: Authority) -> None:
    """RFC 9113 §9.2: TLS 1.2 or higher."""
    context = authority.client_context(alpn=["h2"])
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with connect(tls_server.address) as sock, pytest.raises(ssl.SSLError):
        context.wrap_socket(sock, server_hostname="localhost")


def test_server_does_not_compress_tls(tls_server: GunicornProcess, authority: Authority) -> None:
    """RFC 9113 §9.2.1."""
    context = authority.client_context(alpn=["h2"])
    with context.wrap_socket(connect(tls_server.address), server_hostname="localhost") as sock:
        assert sock.compression() is None
