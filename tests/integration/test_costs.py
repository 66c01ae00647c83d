"""What bodies without end and connections without requests cost a worker: little memory, and no time.

OUTRIDER_SOAK=1 in the environment asks for a gigabyte and 10 000 connections.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_testing.gunicorn_process import PROBE, GunicornProcess
from outrider_testing.http_client import connect, encode_request
from outrider_testing.serving import Serve
from outrider_testing.waiting import POLL_INTERVAL

SOAK = bool(os.environ.get("OUTRIDER_SOAK"))
BULK = "outrider_testing.apps.bulk:app"
MIB = 1 << 20
PIECE = 1 << 16
SIZE = (1024 if SOAK else 64) * MIB
MOST_EXTRA = 20 * MIB
CONNECTIONS = 10_000 if SOAK else 2_000
MOST_PER_CONNECTION = 6 * 1024
STANDSTILL = 0.3  # seconds without a byte after which the worker is taken to wait
LOOKS = round(STANDSTILL / POLL_INTERVAL)

pytestmark = pytest.mark.alone


# -- what /proc tells


def resident(pid: int, field: str = "VmRSS") -> int:
    """Resident memory in bytes; with the field VmHWM its peak (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextlib.contextmanager
def memory_stays_within(extra: int, pid: int) -> Iterator[None]:
    """Hold the highest peak to so many bytes above what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew (proc_pid_clear_refs(5))
    before = resident(pid)
    yield
    grown = resident(pid, "VmHWM") - before
    assert grown < extra, f"{grown / MIB:.1f} MiB more"


# -- bodies


@pytest.fixture
def server(serve: Serve) -> GunicornProcess:
    """A worker that has done everything once, so that what follows is paid for by the body alone."""
    server = serve(BULK)
    server.release("upload")
    assert server.get("/upload", body=bytes(MIB)).body == b"%d" % MIB
    assert len(server.get("/download?count=16").body) == MIB
    (server.directory / "upload.open").unlink()
    return server


def send_until_held_up(sock: socket.socket, size: int) -> int:
    """Send up to `size` bytes, until the other side reads no more; return how many went."""
    piece = bytes(PIECE)
    sent = 0
    while sent < size and select.select([], [sock], [], STANDSTILL)[1]:
        sent += sock.send(piece[: size - sent], socket.MSG_DONTWAIT)
    return sent


def wait_until_held_up(server: GunicornProcess, sock: socket.socket) -> int:
    """Read nothing until no more comes; return how many bytes the kernel has for us by then."""
    looks: deque[int] = deque(maxlen=LOOKS)

    def stands_still() -> bool:
        looks.append(count_unread(sock))
        return len(looks) == LOOKS and looks[0] == looks[-1] > 0

    server.until(stands_still, 20.0, "a server that waits for its client")
    return looks[-1]


def count_unread(sock: socket.socket) -> int:
    """Bytes that wait for `recv` (FIONREAD)."""
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))
    return int(count)


@pytest.mark.timeout(300)
def test_upload_to_a_slow_app_takes_little_memory(server: GunicornProcess) -> None:
    (worker,) = server.workers()
    with memory_stays_within(MOST_EXTRA, worker), contextlib.closing(connect(server.address, 30.0)) as client:
        client.sendall(encode_request("POST", "/upload", [("Content-Length", str(SIZE))]))
        sent = send_until_held_up(client, SIZE)
        assert sent < SIZE, "the worker has read what its application has not asked for"
        server.release("upload")
        piece = bytes(PIECE)
        while sent < SIZE:
            sent += client.send(piece[: SIZE - sent])
        assert client.recv(PIECE).endswith(b"\r\n\r\n%d" % SIZE)
        client.sendall(encode_request("GET", "/"))  # a worker that stopped reading must have begun again
        assert client.recv(PIECE).endswith(b"\r\n\r\nhello")


@pytest.mark.timeout(300)
def test_download_by_a_slow_client_takes_little_memory(server: GunicornProcess) -> None:
    (worker,) = server.workers()
    with memory_stays_within(MOST_EXTRA, worker), server.connect(30.0) as client:
        client.send(encode_request("GET", f"/download?count={SIZE // PIECE}"))
        assert wait_until_held_up(server, client._sock) < SIZE
        received = sum(len(piece) for piece in client.iter_body(client.read_head()))
        assert received == SIZE


# -- idle connections


@contextlib.contextmanager
def kept_connections(server: GunicornProcess, count: int) -> Iterator[list[socket.socket]]:
    """Open connections and use each of them once."""
    request = encode_request("GET", "/")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(connect(server.address))) for _ in range(count)]
        for client in clients:
            client.sendall(request)
            assert client.recv(PIECE).endswith(b"\r\n\r\nhello")
        yield clients


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("many_descriptors")
def test_idle_connections_cost_little_memory_and_no_time(serve: Serve) -> None:
    server = serve(PROBE, "--keep-alive", "600", "--worker-connections", str(CONNECTIONS + 100))
    (worker,) = server.workers()
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_connections(server, 100))  # with the first ones comes what is paid for once
        before = resident(worker)
        clients = stack.enter_context(kept_connections(server, CONNECTIONS))
        per_connection = (resident(worker) - before) / CONNECTIONS
        events = select.poll()
        for client in clients:
            events.register(client, select.POLLIN)
        started = cpu_seconds(worker)
        assert events.poll(1000) == [], "the worker has closed an idle connection"
        spent = cpu_seconds(worker) - started
    print(f"{per_connection / 1024:.2f} KiB for each connection, {spent:.2%} of a core for all of them")
    assert per_connection <= MOST_PER_CONNECTION
    assert spent <= 0.01
