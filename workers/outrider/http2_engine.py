"""libnghttp2, through ngh2: frames, HPACK and the state of streams (RFC 9113, RFC 7541).

The only module that knows the library. It has no I/O and no clock: bytes in, events and bytes out. docs/guide/http2.md
says why this library and not another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ngh2 import (
    Configuration,
    Connection,
    ConnectionClosed,
    DataReceived,
    DenialOfServiceError,
    GoAwayReceived,
    NGH2Error,
    PingAcknowledged,
    PingReceived,
    PriorityUpdateReceived,
    RequestReceived,
    Role,
    Setting,
    SettingsReceived,
    StreamClosed,
    TrailersReceived,
    WindowUpdated,
)

if TYPE_CHECKING:
    from outrider.config import HTTP2Config

__all__ = [
    "ConnectionClosed",
    "DataReceived",
    "Engine",
    "EngineError",
    "ErrorCode",
    "GoAwayReceived",
    "PingAcknowledged",
    "PingReceived",
    "PriorityUpdateReceived",
    "RequestReceived",
    "SettingsReceived",
    "StreamClosed",
    "TrailersReceived",
    "WindowUpdated",
    "code_of",
    "goaway_frame",
    "reset_frame",
]

HeaderPair = tuple[bytes, bytes]

EngineError = NGH2Error
"""Of `receive`: the connection can't go on, and the engine is of no more use. Of a call for a stream: it is gone."""

# Uploads whose application is slow hold this much of the connection's window before other uploads wait for them.
LEAST_CONNECTION_WINDOW = 1 << 20
# A header list may be this much larger than is allowed, for its request to be answered rather than the connection cut.
ANSWERED_EXCESS = 4
MOST_HEADER_LIST = 1 << 23
FRAME_SIZE = 16384
# Control frames of a client that does not read what they are answered with.
MOST_UNSENT_ANSWERS = 1000
# Streams that are reset at once, and in a second. Of a client http2_guard takes fewer.
MOST_RESETS = (1000, 33)
MOST_RESETS_OF_MANY = (1 << 32, 1 << 32)


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113 §7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    ENHANCE_YOUR_CALM = 11


class Engine:
    """The protocol state of one connection.

    Its attributes are the library's methods as they are, since some of them are called for every request:

    - `receive(data)`: process bytes from the client. Raises EngineError.
    - `events()`: what happened, in the order it did; `to_send` makes events as well.
    - `to_send(most)`: take bytes for the client, `most` or fewer.
    - `respond(stream, fields, end_stream=False)`, `inform(stream, fields)`: a final and an interim response.
    - `send(stream, data, end_stream=False)`, `send_trailers(stream, fields)`: queue a piece of body, and its end.
    - `queued(stream)`: bytes of body that wait for the client's window.
    - `consume(size, stream)`: give that much of the window back to the client.
    - `reset(stream, code)`, `ping()`.
    """

    __slots__ = (
        "_connection",
        "consume",
        "events",
        "inform",
        "ping",
        "queued",
        "receive",
        "reset",
        "respond",
        "send",
        "send_trailers",
        "to_send",
    )

    receive: Callable[[bytes | memoryview], None]
    events: Callable[[], list[Any]]
    to_send: Callable[[int], bytes]
    respond: Callable[..., None]
    inform: Callable[[int, Sequence[HeaderPair]], None]
    send: Callable[..., None]
    send_trailers: Callable[[int, Sequence[HeaderPair]], None]
    queued: Callable[[int], int]
    consume: Callable[[int, int], None]
    reset: Callable[[int, int], None]
    ping: Callable[[], None]

    def __init__(self, config: HTTP2Config, most_fields: int, *, websocket: bool, many_clients: bool = False) -> None:
        """Begin a connection: the first bytes to send are the server's SETTINGS (RFC 9113 §3.4).

        Args:
            config: what the client is told.
            most_fields: a request may have.
            websocket: whether extended CONNECT is offered (RFC 8441 §3).
            many_clients: whether it is a proxy at the other end, which resets streams as its clients go.
        """
        resets = MOST_RESETS_OF_MANY if many_clients else MOST_RESETS
        connection = self._connection = Connection(Role.SERVER, _limits(config, most_fields, resets))
        self.receive = connection.receive_data
        self.events = connection.events
        self.to_send = connection.data_to_send
        self.respond = connection.send_response
        self.inform = connection.send_informational_response
        self.send = connection.send_data
        self.send_trailers = connection.send_trailers
        self.queued = connection.queued_body_size
        self.consume = connection.acknowledge_received_data
        self.reset = connection.reset_stream
        self.ping = connection.ping
        connection.initiate_connection(_settings(config, websocket=websocket))
        connection.set_local_window_size(max(LEAST_CONNECTION_WINDOW, config.initial_window_size))

    def wants_to_send(self) -> bool:
        """Whether `to_send` would return something."""
        return self._connection.want_write

    def announce_shutdown(self) -> None:
        """Ask the client to open no more streams; those that are on their way are still taken (RFC 9113 §6.8)."""
        self._connection.send_shutdown_notice()

    def shut_down(self) -> None:
        """Say which stream is the last one that will be answered, and ignore those that come after it."""
        self._connection.send_goaway(ErrorCode.NO_ERROR)


def code_of(error: EngineError) -> ErrorCode:
    """What to tell the client for an error of `receive`."""
    return ErrorCode.ENHANCE_YOUR_CALM if isinstance(error, DenialOfServiceError) else ErrorCode.PROTOCOL_ERROR


def goaway_frame(last_stream: int, code: ErrorCode) -> bytes:
    """A GOAWAY frame (RFC 9113 §6.8), for a connection whose engine gave up without one."""
    return b"\0\0\x08\x07\0\0\0\0\0" + last_stream.to_bytes(4, "big") + int(code).to_bytes(4, "big")


def reset_frame(stream: int, code: ErrorCode) -> bytes:
    """An RST_STREAM frame (RFC 9113 §6.4), for a stream that the engine has forgotten."""
    return b"\0\0\x04\x03\0" + stream.to_bytes(4, "big") + int(code).to_bytes(4, "big")


def _limits(config: HTTP2Config, most_fields: int, resets: tuple[int, int]) -> Configuration:
    size = most_header_list(config)
    return Configuration(
        auto_window_update=False,
        max_outbound_ack=MOST_UNSENT_ANSWERS,
        stream_reset_rate_limit=resets,
        max_inbound_header_list_size=size,
        max_inbound_header_count=2 * most_fields + FRAME_SIZE // 32,
        max_continuations=size // FRAME_SIZE + 8,
    )


def most_header_list(config: HTTP2Config) -> int:
    """Bytes of header list (RFC 9113 §6.5.2) at which the connection is cut."""
    return min(config.max_header_list_size * ANSWERED_EXCESS or MOST_HEADER_LIST, MOST_HEADER_LIST)


def _settings(config: HTTP2Config, *, websocket: bool) -> dict[int, int]:
    settings = {
        Setting.MAX_CONCURRENT_STREAMS: config.max_concurrent_streams,
        Setting.INITIAL_WINDOW_SIZE: config.initial_window_size,
        Setting.MAX_FRAME_SIZE: config.max_frame_size,
        Setting.NO_RFC7540_PRIORITIES: 1,
    }
    if config.max_header_list_size:
        settings[Setting.MAX_HEADER_LIST_SIZE] = config.max_header_list_size
    if websocket:
        settings[Setting.ENABLE_CONNECT_PROTOCOL] = 1
    return {int(name): value for name, value in settings.items()}
