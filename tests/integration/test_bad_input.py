"""Bad configuration stops the boot with a sentence; bad clients and a full disk disturb nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from outrider_testing.gunicorn_process import PROBE, GunicornProcess
from outrider_testing.http_client import HTTPConnection, can_connect, encode_request, parse_head
from outrider_testing.serving import Serve

PLAIN_REQUEST = encode_request("GET", "/")


@pytest.fixture(scope="module")
def server(serve_for_module: Serve) -> GunicornProcess:
    return serve_for_module(env={"OUTRIDER_HEADER_TIMEOUT": "1"})


@pytest.fixture
def undisturbed(server: GunicornProcess) -> Iterator[GunicornProcess]:
    """The module's server; afterwards the same worker still serves and nothing was logged as a crash."""
    before = server.workers()
    logged = len(server.log_text())
    yield server
    assert server.get("/").body == b"hello"
    assert server.workers() == before
    assert "Traceback" not in server.log_text()[logged:]


# Configuration


def test_server_refuses_port_that_is_taken(serve: Serve) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        server = serve(PROBE, "--bind", f"127.0.0.1:{port}", workers=0)
        assert server.wait() == 1
    assert f"Connection in use: ('127.0.0.1', {port})" in server.log_text()
    assert "Traceback" not in server.log_text()


@pytest.mark.parametrize(
    "variable, value",
    [
        ("OUTRIDER_HEADER_TIMEOUT", "abc"),
        ("OUTRIDER_STALL_WARNING", "-1"),
        ("OUTRIDER_PROBE_PATH", "no slash"),
        ("OUTRIDER_HEADER_TIMOUT", "5"),
    ],
)
def test_server_refuses_bad_variable_in_one_line(serve: Serve, variable: str, value: str) -> None:
    server = serve(workers=0, env={variable: value})
    assert server.wait() != 0
    log = server.log_text()
    assert "Traceback" not in log
    lines = [line for line in log.splitlines() if variable in line]
    assert len(lines) == 1
    assert value in lines[0] or "did you mean" in lines[0]


def test_server_refuses_bad_setting_in_file_in_one_line(serve: Serve) -> None:
    server = serve(workers=0, config="header_timeout = 'soon'\n")
    assert server.wait() != 0
    log = server.log_text()
    assert "Traceback" not in log
    assert len([line for line in log.splitlines() if "header_timeout" in line and "'soon'" in line]) == 1


# TLS: whatever is wrong with the PEM files, no byte of plaintext is served


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate and its key, the key of another, a text that is no PEM, and a CA."""
    directory = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    authority.issue_cert("localhost").private_key_pem.write_to_path(directory / "other.pem")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    (directory / "garbage.pem").write_text("no PEM at all\n")
    (directory / "directory.pem").mkdir()  # which not even root can read
    return directory


@pytest.mark.parametrize("preload", [(), ("--preload",)])
@pytest.mark.parametrize(
    "certificate, key, culprit",
    [
        ("missing.pem", "key.pem", "missing.pem"),
        ("cert.pem", "missing.pem", "missing.pem"),
        ("garbage.pem", "key.pem", "garbage.pem"),
        ("directory.pem", "key.pem", "directory.pem"),
        ("cert.pem", "garbage.pem", "garbage.pem"),
        ("cert.pem", "other.pem", "other.pem"),
    ],
)
def test_server_refuses_unusable_pem_by_path(
    serve: Serve, pem: Path, certificate: str, key: str, culprit: str, preload: tuple[str, ...]
) -> None:
    options = ("--certfile", str(pem / certificate), "--keyfile", str(pem / key), *preload)
    server = serve(PROBE, *options, workers=0)
    plaintext: list[bytes] = []

    def has_exited() -> bool:
        plaintext.append(plaintext_answer(server))
        return server.process.poll() is not None

    server.until(has_exited, 10.0, "the refusal")
    assert server.wait() != 0
    assert b"".join(plaintext) == b""
    assert str(pem / culprit) in server.log_text()


def plaintext_answer(server: GunicornProcess) -> bytes:
    """What a plaintext request gets, if anybody listens yet."""
    if "Listening at" not in server.log_text():
        return b""
    try:
        with HTTPConnection(server.address, timeout=0.2) as connection:
            connection.send(PLAIN_REQUEST)
            return connection.read_to_end()
    except OSError:
        return b""


def test_server_with_good_pem_serves_tls_only(serve: Serve, pem: Path) -> None:
    options = ("--certfile", str(pem / "cert.pem"), "--keyfile", str(pem / "key.pem"))
    server = serve(PROBE, *options, workers=0)
    server.tls = trusting(pem / "ca.pem")
    server.wait_until_ready()
    assert server.get("/identity").json()["scheme"] == "https"
    with HTTPConnection(server.address, timeout=5.0) as connection:
        connection.send(PLAIN_REQUEST)
        assert b"hello" not in connection.read_to_end()
    assert server.get("/").body == b"hello"


def trusting(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority)


# A full disk


@pytest.mark.parametrize("option", ["--access-logfile", "--error-logfile"])
def test_server_with_full_disk_keeps_serving(serve: Serve, option: str) -> None:
    server = serve(PROBE, option, "/dev/full", "--bind", "unix:server.sock", workers=0)
    server.address = str(server.directory / "server.sock")
    server.until(lambda: can_connect(server.address), what="the listener")
    workers = {server.get("/pid").body for _ in range(10)}
    assert server.get("/fail").status == 500
    with server.connect() as connection:
        workers |= {connection.request("GET", "/pid").body for _ in range(10)}
    assert len(workers) == 1


# Too many clients


def test_connection_beyond_limit_waits_for_another_to_end(serve: Serve) -> None:
    server = serve(PROBE, "--worker-connections", "2")
    with server.hold("first"), server.hold("second") as second, server.connect() as third:
        third.send(PLAIN_REQUEST)
        # Another round trip later the worker, which has nothing else to do, has still not answered it.
        assert not third.has_received(0.3)
        server.release("first")
        server.release("second")
        assert second.read_response().body == b"second"
        second.close()
        third.set_timeout(5.0)
        assert third.read_response().body == b"hello"


@pytest.mark.usefixtures("many_descriptors")
def test_server_serves_thousands_of_connections_beyond_its_limit(serve: Serve) -> None:
    """5 000 clients at once, for a worker that holds 100 connections: the rest queue, and all are served."""
    # The kernel drops what is beyond its queue; a client's next attempt to send the request may come late.
    options = ("--worker-connections", "100", "--backlog", "4096")
    server = serve(PROBE, *options, env={"OUTRIDER_HEADER_TIMEOUT": "60"})
    (worker,) = server.workers()
    answers = asyncio.run(ask_at_once(server, "/concurrency", 5000))
    assert Counter(answers) == {200: 5000}
    assert int(server.get("/concurrency").body) <= 100
    assert server.workers() == [worker]
    assert "Traceback" not in server.log_text()


async def ask_at_once(server: GunicornProcess, target: str, clients: int) -> list[int]:
    host, port = server.tcp_address
    request = encode_request("GET", target, [("Connection", "close")])

    async def ask() -> int:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return parse_head(answer.partition(b"\r\n\r\n")[0]).status

    async with asyncio.timeout(60):
        return await asyncio.gather(*(ask() for _ in range(clients)))


# Bad clients

NOISE = random.Random(2616).randbytes


@pytest.mark.parametrize(
    "garbage",
    [
        NOISE(64),
        NOISE(65536),
        b"\0" * 4096,
        b"\r\n" * 4096,
        b"\n",
        b"\xff\xf4\xff\xfd\x06",
        bytes.fromhex("16030100c8010000c40303") + NOISE(193),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: test\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nX: \0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=lambda garbage: repr(garbage[:24]),
)
def test_client_that_sends_garbage_is_refused(undisturbed: GunicornProcess, garbage: bytes) -> None:
    with undisturbed.connect(timeout=5.0) as connection:
        with contextlib.suppress(ConnectionError):  # refused before everything was sent
            connection.send(garbage)
        answer = connection.read_to_end()
    assert not answer or re.match(rb"HTTP/1\.1 (400|408|501|505) ", answer)


@pytest.mark.parametrize(
    "target, fields, status",
    [
        ("/" + "a" * 5000, [], 414),
        ("/" + "a" * 5_000_000, [], 414),
        ("/", [("X-Large", "a" * 9000)], 431),
        ("/", [("X-Large", "a" * 5_000_000)], 431),
        ("/", [(f"X-{number}", "a") for number in range(101)], 431),
        ("/", [(f"X-{number}", "a") for number in range(50_000)], 431),
    ],
    ids=["line", "huge line", "field", "huge field", "101 fields", "50 000 fields"],
)
def test_client_that_sends_oversized_head_is_told(
    undisturbed: GunicornProcess, target: str, fields: list[tuple[str, str]], status: int
) -> None:
    request = encode_request("GET", target, fields)  # it takes a while, for which no connection shall wait
    with undisturbed.connect(timeout=5.0) as connection:
        with contextlib.suppress(ConnectionError):  # refused before everything was sent
            connection.send(request)
        assert connection.read_response().status == status
        assert connection.is_closed_by_peer(5.0)


def test_client_that_sends_one_byte_and_waits_is_closed(undisturbed: GunicornProcess) -> None:
    with undisturbed.connect() as connection:
        connection.send(b"G")
        closed_in_time(connection, b"")


def test_client_that_sends_byte_after_byte_is_closed(undisturbed: GunicornProcess) -> None:
    """Each byte comes in time for a deadline that started anew with the byte before."""
    with undisturbed.connect() as connection:
        closed_in_time(connection, b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow: " + b"a" * 100)


def test_client_that_sends_nothing_is_closed(undisturbed: GunicornProcess) -> None:
    with undisturbed.connect() as connection:
        closed_in_time(connection, b"")


def closed_in_time(connection: HTTPConnection, dribble: bytes) -> None:
    """Send a byte every 50 ms until the server closes, which must be after about 1 s; there are bytes for 5."""
    start = time.monotonic()
    rest = memoryview(dribble)
    while not connection.is_closed_by_peer(0.05):
        assert time.monotonic() - start < 5.0
        with contextlib.suppress(ConnectionError):  # seen by the next look
            connection.send(rest[:1])
        rest = rest[1:]
    assert time.monotonic() - start > 0.5
