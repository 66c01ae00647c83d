"""A load generator for WebSockets.

`run` starts it as a script, on connections that are open already: what a handshake costs is not measured. It must be
faster than the servers, so it sends frames built once, looks at no more than the header of a reply, and goes without
an event loop. It prints what wrk's script prints.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Iterable

from loads import LOADS, Load
from tally import Tally
from websocket_wire import FrameError, WebSocket, frame_size, message_frame
from wrk import Result, parse, run_pinned

# For all connections: what is in it is looked at before the next one writes to it.
_BUFFER = bytearray(1 << 18)
_STALLED = 5.0  # seconds without a reply on any connection


class Connection:
    """Sends a message, waits for the whole reply, and sends the next."""

    __slots__ = ("_expected", "_frame", "_missing", "_receive", "_send", "_sent_at", "_tally", "is_open")

    def __init__(self, connected: socket.socket, frame: bytes, expected: int, tally: Tally) -> None:
        """Send ``frame`` again and again; replies have ``expected`` bytes, or any number where that is 0."""
        self._receive = connected.recv_into
        self._send = connected.send
        self._frame = frame
        self._expected = expected
        self._tally = tally
        self._missing = 0
        self._sent_at = 0.0
        self.is_open = True

    def send(self) -> None:
        """Send the message. The last one was answered, so that there is room for it in the socket."""
        self._sent_at = time.perf_counter()
        if self._send(self._frame) != len(self._frame):
            self._fail("write")

    def receive(self) -> None:
        """Take what has come; once the reply is whole, count it and send the next message."""
        try:
            received = self._receive(_BUFFER)
            if not self._missing:
                self._missing = self._size_of_reply()
        except OSError:
            received = 0
        self._missing -= received
        if not received or self._missing < 0:
            self._fail("read")
        elif not self._missing:
            self._tally.latencies.append(time.perf_counter() - self._sent_at)
            self.send()

    def _size_of_reply(self) -> int:
        size = frame_size(_BUFFER)
        if self._expected and size != self._expected:
            raise FrameError(f"{size} bytes instead of {self._expected}")
        return size

    def _fail(self, kind: str) -> None:
        self.is_open = False
        self._tally.errors[kind] += 1


def generate(sockets: Iterable[socket.socket], load: Load, bits: int, seconds: float) -> str:
    """Send ``load`` over open WebSockets that agreed on a window of ``bits`` and return the result line."""
    frame = message_frame(load.body, is_text=load.is_text, bits=bits)
    expected = 0 if bits else len(frame) - 4  # a reply has no mask
    tally = Tally()
    connections = {}
    with select.epoll() as poll:
        for connected in sockets:
            connected.setblocking(False)
            connections[connected.fileno()] = Connection(connected, frame, expected, tally)
            poll.register(connected, select.EPOLLIN)
        started = time.perf_counter()
        for connection in connections.values():
            connection.send()
        ends = started + seconds
        while connections and time.perf_counter() < ends:
            events = poll.poll(_STALLED, len(connections))
            if not events:
                tally.errors["timeout"] += len(connections)
                break
            for descriptor, _ in events:
                connection = connections[descriptor]
                connection.receive()
                if not connection.is_open:
                    poll.unregister(descriptor)
                    del connections[descriptor]
        return tally.as_line(time.perf_counter() - started)


def run(websockets: list[WebSocket], load: Load, seconds: int, core: int) -> Result:
    """Run this client, pinned to ``core``, over ``websockets`` for ``seconds``.

    Raises:
        LoadError: it failed, hung or printed no result.

    """
    descriptors = [websocket.socket.fileno() for websocket in websockets]
    bits = str(websockets[0].bits)
    command = [sys.executable, __file__, load.key, str(seconds), bits, ",".join(map(str, descriptors))]
    return parse(run_pinned(command, core, seconds, descriptors))


if __name__ == "__main__":
    _load, _seconds, _bits, _descriptors = sys.argv[1:]
    _sockets = [socket.socket(fileno=int(descriptor)) for descriptor in _descriptors.split(",")]
    sys.stdout.write(generate(_sockets, LOADS[_load], int(_bits), int(_seconds)) + "\n")
