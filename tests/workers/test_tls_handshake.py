"""What is said of handshakes that fail."""

from __future__ import annotations

import ssl

import pytest

from outrider.tls_handshake import FAILURE_LOG_PERIOD, Handshakes
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
    assert second == f"{first} Not reported since the last one: 2 more of these."


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), BrokenPipeError(), ssl.SSLEOFError(8, "eof"), ssl.SSLZeroReturnError(6, "end")]
)
def test_client_that_just_leaves_is_no_news(handshakes: Handshakes, error: OSError) -> None:
    handshakes.report(CLIENT, error)
    assert log_of(handshakes).messages("info") == []
    (message,) = log_of(handshakes).messages("debug")
    assert not message.endswith(": .")
