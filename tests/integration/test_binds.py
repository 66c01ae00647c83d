"""Every kind of listener that gunicorn can bind or be given serves requests."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import uuid4

import pytest

from outrider_testing.gunicorn_process import PROBE, GunicornProcess
from outrider_testing.http_client import Address, can_connect, encode_request, fetch
from outrider_testing.launchers import as_systemd
from outrider_testing.serving import Serve


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A TCP socket that somebody else bound."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=128)) as sock:
        yield sock


def address_of(sock: socket.socket) -> Address:
    address: tuple[str, int] = sock.getsockname()
    return address


def test_server_listens_on_tcp(serve: Serve) -> None:
    server = serve(PROBE, "--bind", "127.0.0.1:0")
    answer = server.get("/identity").json()
    assert answer["client"][0] == "127.0.0.1"
    assert answer["server"] == list(server.address)


def test_server_listens_on_tcp6(serve: Serve) -> None:
    server = serve(PROBE, "--bind", "[::1]:0")
    assert server.address[0] == "::1"
    answer = server.get("/identity").json()
    assert answer["client"][0] == "::1"
    assert answer["server"] == list(server.address)


def test_server_listens_on_unix_socket_and_removes_it(serve: Serve) -> None:
    server = serve(PROBE, "--bind", "unix:server.sock", workers=0)
    path = server.directory / "server.sock"
    server.address = str(path)
    server.wait_until_ready()
    answer = server.get("/identity").json()
    assert answer["client"] is None
    assert answer["server"] == ["server.sock", None]
    server.stop()
    assert not path.exists()


def test_server_listens_on_abstract_unix_socket(serve: Serve) -> None:
    name = f"\0outrider-{uuid4()}"
    # A NUL cannot be part of a command line.
    server = serve(config=f"bind = {'unix:' + name!r}\n", workers=0)
    server.address = name
    server.wait_until_ready()
    assert server.get("/identity").json()["client"] is None


def test_server_listens_on_several_addresses(serve: Serve) -> None:
    server = serve(PROBE, "--bind", "127.0.0.1:0", "--bind", "unix:second.sock")
    assert server.get("/").body == b"hello"
    assert fetch(str(server.directory / "second.sock"), "/").body == b"hello"


def test_server_listens_on_given_descriptor(serve: Serve, listener: socket.socket) -> None:
    fd = listener.fileno()
    server = serve(PROBE, "--bind", f"fd://{fd}", pass_fds=[fd])
    assert server.address == address_of(listener)
    assert server.get("/").body == b"hello"
    server.stop()
    assert can_connect(address_of(listener)), "the socket of somebody else was shut down"


def test_server_listens_on_sockets_of_systemd(serve: Serve, tmp_path: Path, listener: socket.socket) -> None:
    path = tmp_path / "activated.sock"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as second:
        second.bind(str(path))
        second.listen()
        descriptors = [listener.fileno(), second.fileno()]
        server = serve(workers=2, launcher=as_systemd(*descriptors), pass_fds=descriptors)
        assert server.address == address_of(listener)
        assert server.get("/").body == b"hello"
        assert fetch(str(path), "/").body == b"hello"
        server.reload()
        assert fetch(str(path), "/").body == b"hello"
        server.stop()
    assert path.exists(), "systemd's socket was removed"


@pytest.fixture
def reserved_port() -> Iterator[int]:
    """A port for --reuse-port, whose workers each bind it: bound here but not listening, it stays ours."""
    with closing(socket.socket()) as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reservation.bind(("127.0.0.1", 0))
        port: int = reservation.getsockname()[1]
        yield port


def serve_reusing_port(serve: Serve, port: int, workers: int) -> GunicornProcess:
    options = ("--reuse-port", "--bind", f"127.0.0.1:{port}", "-w", str(workers))
    server = serve(PROBE, *options, workers=0)
    server.address = ("127.0.0.1", port)
    return server.wait_until_ready(workers)


def test_workers_share_port_with_reuse_port(serve: Serve, reserved_port: int) -> None:
    server = serve_reusing_port(serve, reserved_port, workers=2)
    workers = set(server.workers())
    seen: set[int] = set()

    def every_worker_has_answered() -> bool:
        seen.add(int(server.get("/pid").body))
        return seen == workers

    server.until(every_worker_has_answered, what="answers of both workers")


@pytest.mark.parametrize("reuse_port", [False, True])
def test_worker_told_to_stop_loses_no_queued_connection(serve: Serve, reserved_port: int, reuse_port: bool) -> None:
    """While the worker is busy connections queue up; what it does not take would be reset with its own socket."""
    server = serve_reusing_port(serve, reserved_port, workers=1) if reuse_port else serve()
    (worker,) = server.workers()
    with ExitStack() as stack:
        busy = stack.enter_context(server.connect())
        busy.send(encode_request("GET", "/block?gate=busy"))
        server.until_event(f"blocking {worker}")
        queued = [stack.enter_context(server.connect()) for _ in range(20)]
        for connection in queued:
            connection.send(encode_request("GET", "/"))
        server.signal(signal.SIGTERM, worker)
        server.release("busy")
        assert busy.read_response().body == b"done"
        assert [connection.read_response().body for connection in queued] == [b"hello"] * 20
    server.wait_until_gone(worker)
