"""HTTP/2 flow control, RFC 9113 §5.2 and §6.9: both sides keep to the windows."""

from __future__ import annotations

from collections import Counter

from outrider_testing import http2_frames as h2
from outrider_testing.http2_cases import (
    Case,
    ConnectionFault,
    Holds,
    Response,
    Step,
    StreamFault,
    parametrize,
    play,
    settled,
)
from outrider_testing.http2_wire import Connect, WireClient

OVERFLOW = ConnectionFault(h2.FLOW_CONTROL_ERROR)
HELLO = Response(1, body=b"hello")
TOO_LARGE = h2.request("/bulk?size=200000")


def window(size: int) -> bytes:
    return h2.settings((h2.INITIAL_WINDOW_SIZE, size))


def waits_after(body: bytes) -> Holds:
    """The server has sent exactly this much of a response on stream 1, and waits."""

    def holds(client: WireClient) -> bool:
        # The response may be on its way while the PING is answered; what a window allows comes in any case.
        client.read_until(lambda: 1 in client.responses and len(client.responses[1].body) >= len(body), "a part")
        client.synchronise()
        return client.responses[1].body == body and not client.responses[1].ended

    return Holds(f"{body!r} and no more", holds)


def total_is(size: int) -> Holds:
    """The server has sent this many octets on all streams."""

    def holds(client: WireClient) -> bool:
        def total() -> int:
            return sum(len(response.body) for response in client.responses.values())

        client.read_until(lambda: total() >= size, f"{size} octets")
        client.synchronise()
        return total() == size

    return Holds(f"{size} octets and no more", holds)


def part(size: int) -> Step:
    """Wait for so much of the response on stream 1."""

    def wait(client: WireClient) -> None:
        client.read_until(lambda: 1 in client.responses and len(client.responses[1].body) >= size, f"{size} octets")

    return wait


CASES = [
    Case("6.9.1", "INITIAL_WINDOW_SIZE 1", [h2.get(1)], waits_after(b"h"), settings=window(1)),
    Case("6.9.1", "INITIAL_WINDOW_SIZE 0", [h2.get(1)], waits_after(b""), settings=window(0)),
    Case("6.9.1", "a window of the body's size", [h2.get(1)], HELLO, settings=window(5)),
    Case("6.9.1", "a window for an empty body",
         [h2.post(1), h2.data(1)], Response(1, body=b""), settings=window(0)),
    Case("6.9.1", "WINDOW_UPDATE by little", [h2.get(1), *[h2.window_update(1, 1)] * 4], waits_after(b"hell"),
         settings=window(0)),
    Case("6.9.1", "a large response and the default windows", [h2.headers(1, TOO_LARGE)], total_is(65535)),
    Case("6.9.1", "large windows of streams, and the default one of the connection",
         [h2.headers(1, TOO_LARGE), h2.headers(3, TOO_LARGE)], total_is(65535), settings=window(1_000_000)),
    Case("6.9.1", "a large window of the connection, and the default ones of streams",
         [h2.window_update(0, 1_000_000), h2.headers(1, TOO_LARGE), h2.headers(3, TOO_LARGE)], total_is(2 * 65535)),
    Case("6.9.1", "large windows",
         [h2.window_update(0, 1_000_000), h2.headers(1, TOO_LARGE)], Response(1, body=b"x" * 200000),
         settings=window(1_000_000)),
    Case("6.9.1", "the largest window of the connection", [h2.window_update(0, 2**31 - 1 - 65535), h2.get(1)], HELLO),
    Case("6.9.1", "too large a window of the connection", [h2.window_update(0, 2**31 - 65535)], OVERFLOW),
    Case("6.9.1", "too large a window of the connection, by and by",
         [h2.window_update(0, 2**31 - 1 - 65535), h2.window_update(0, 1)], OVERFLOW),
    Case("6.9.1", "too large a window of a stream",
         [h2.post(1), h2.window_update(1, 2**31 - 65535)], StreamFault(1, h2.FLOW_CONTROL_ERROR)),
    Case("6.9.1", "too large a window of a stream, by and by",
         [h2.post(1), h2.window_update(1, 2**31 - 1 - 65535), h2.window_update(1, 1)],
         StreamFault(1, h2.FLOW_CONTROL_ERROR)),
    Case("6.9.2", "a larger INITIAL_WINDOW_SIZE for a stream that waits", [h2.get(1), settled, window(5)], HELLO,
         settings=window(0)),
    Case("6.9.2", "a larger INITIAL_WINDOW_SIZE before the stream", [window(3), h2.get(1)], waits_after(b"hel"),
         settings=window(0)),
    Case("6.9.2", "a negative window", [h2.get(1), part(3), window(0), h2.window_update(1, 3)], waits_after(b"hel"),
         settings=window(3)),
    Case("6.9.2", "a window that is positive again",
         [h2.get(1), part(3), window(0), h2.window_update(1, 3), settled, h2.window_update(1, 1)], waits_after(b"hell"),
         settings=window(3)),
    Case("6.9.2", "an INITIAL_WINDOW_SIZE that makes the window of a stream too large",
         [h2.get(1) + h2.window_update(1, 2**31 - 1) + window(1)], OVERFLOW, settings=window(0)),
    Case("6.9.2", "a larger INITIAL_WINDOW_SIZE, which leaves the connection's window alone",
         [h2.headers(1, TOO_LARGE), window(1_000_000)], total_is(65535)),
    Case("6.5.3", "two values of INITIAL_WINDOW_SIZE, of which the last counts",
         [h2.settings((h2.INITIAL_WINDOW_SIZE, 100), (h2.INITIAL_WINDOW_SIZE, 1)), h2.get(1)], waits_after(b"h")),
    Case("6.9", "padding, which counts",
         [h2.post(1), *[h2.data(1, h2.padded(b"", 255), h2.PADDED)] * 255, h2.data(1, b"a")], Response(1, body=b"a")),
]  # fmt: skip


@parametrize(CASES)
def test_server_keeps_to_windows(connect: Connect, case: Case) -> None:
    play(case, connect)


def test_server_keeps_to_frame_size(connect: Connect) -> None:
    with connect() as client:
        client.handshake(window(1_000_000))
        client.send(h2.window_update(0, 1_000_000) + h2.headers(1, TOO_LARGE))
        assert max(client.response(1).data_sizes) <= h2.DEFAULT_FRAME_SIZE


class Uploads:
    """Sends DATA, as much as the server allows by what has come from it."""

    def __init__(self, client: WireClient) -> None:
        self._client = client
        self._sent: Counter[int] = Counter()

    def room(self, stream: int) -> int:
        """How much may be sent on a stream."""
        given = self._client.window_updates
        own = self._client.settings[h2.INITIAL_WINDOW_SIZE] + given.get(stream, 0) - self._sent[stream]
        return min(own, h2.DEFAULT_WINDOW + given.get(0, 0) - self._sent.total())

    def wait(self, stream: int) -> None:
        """Wait until something may be sent."""
        self._client.read_until(lambda: self.room(stream) > 0, "credit")

    def send(self, stream: int, size: int = h2.DEFAULT_FRAME_SIZE, flags: int = 0) -> int:
        """Send a frame, smaller where there is no room for more; its size."""
        size = min(size, self.room(stream), h2.DEFAULT_FRAME_SIZE)
        self._sent[stream] += size
        self._client.send(h2.data(stream, b"y" * size, flags))
        return size

    def fill(self, stream: int) -> None:
        """Send all that the server takes."""
        self._client.synchronise()
        while self.room(stream) > 0:
            self.send(stream)
            assert self._sent[stream] <= MOST_UNREAD, "the server takes what nobody reads"
            self._client.synchronise()


MOST_UNREAD = 1 << 20  # octets; far above any sensible buffer, far below a large upload
# With a frame on each, they are more than the window of a connection, unless that is more than 1.6 MB.
STREAMS = range(1, 201, 2)
LAST = 201


def release(connect: Connect) -> None:
    """Let the applications at /stuck end."""
    with connect() as other:
        other.handshake()
        other.send(h2.get(1, "/release"))
        assert other.response(1).body == b"hello"


def test_server_takes_no_more_than_it_allowed(connect: Connect) -> None:
    with connect() as client:
        client.handshake()
        client.send(h2.post(1, path="/stuck"))
        Uploads(client).fill(1)
        client.send(h2.data(1, b"!"))
        client.synchronise()
        if client.goaway:
            client.read_until(lambda: False, "the end")
        assert StreamFault(1, h2.FLOW_CONTROL_ERROR).matches(client), client.describe()
    release(connect)


def test_server_serves_others_while_a_body_is_not_read(connect: Connect) -> None:
    with connect() as client:
        client.handshake()
        client.send(h2.post(1, path="/stuck"))
        uploads = Uploads(client)
        uploads.fill(1)
        client.send(h2.post(3))
        assert uploads.room(3) > 0, "one upload takes the window of all"
        uploads.send(3, 5, h2.END_STREAM)
        assert client.response(3).body == b"yyyyy"
    release(connect)


def test_server_returns_credit_for_what_is_read(connect: Connect) -> None:
    left = size = 100 * h2.DEFAULT_FRAME_SIZE
    with connect() as client:
        client.handshake(window(size))
        client.send(h2.window_update(0, size) + h2.post(1))
        uploads = Uploads(client)
        while left:
            uploads.wait(1)
            left -= uploads.send(1, left)
        client.send(h2.data(1))
        assert client.response(1).body == b"y" * size


def test_server_returns_credit_of_streams_that_are_reset(connect: Connect) -> None:
    """What nobody will read counts for the connection's window no more (§6.9.1)."""
    with connect() as client:
        client.handshake()
        uploads = Uploads(client)
        for stream in STREAMS:
            uploads.wait(LAST)
            client.send(h2.post(stream, path="/stuck"))
            uploads.send(stream)
            client.send(h2.rst_stream(stream))
        client.send(h2.post(LAST))
        uploads.wait(LAST)
        uploads.send(LAST, 1, h2.END_STREAM)
        assert client.response(LAST).body == b"y"
    release(connect)


def test_server_returns_credit_for_what_comes_after_the_response(connect: Connect) -> None:
    with connect() as client:
        client.handshake()
        uploads = Uploads(client)
        for stream in STREAMS:
            client.send(h2.post(stream, path="/"))
            client.response(stream)
            uploads.wait(LAST)
            uploads.send(stream, flags=h2.END_STREAM)
        client.send(h2.post(LAST))
        uploads.wait(LAST)
        uploads.send(LAST, 1, h2.END_STREAM)
        assert client.response(LAST).body == b"y"
