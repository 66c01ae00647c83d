"""A client of HTTP/2 for tests: another implementation (h2) at the other end of a transport in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection

from outrider.http2 import HTTP2Connection
from outrider_testing.fakes import AtTheServer, DrivenApp, FakeTransport, make_context, make_runtime

if TYPE_CHECKING:
    from h2.settings import SettingCodes

    from outrider.runtime import ASGIApp, ConnectionContext
    from outrider_testing.fakes import ManualLoop

HeaderPair = tuple[bytes, bytes]
FRAME_HEADER = 9
GOAWAY = 7
AUTHORITY = (b":authority", b"a")
GET = ((b":method", b"GET"), (b":scheme", b"http"), AUTHORITY, (b":path", b"/"))
POST = ((b":method", b"POST"), (b":scheme", b"http"), AUTHORITY, (b":path", b"/"))


class GoAway(NamedTuple):
    """A frame that says that the connection ends."""

    last_stream_id: int
    error_code: int


@dataclass
class Response:
    """What has come on one stream."""

    status: int = 0
    headers: list[HeaderPair] = field(default_factory=list)
    body: bytes = b""
    trailers: list[HeaderPair] = field(default_factory=list)
    informational: list[list[HeaderPair]] = field(default_factory=list)
    complete: bool = False
    reset: int | None = None

    def all(self, name: str) -> list[bytes]:
        """The values of a field."""
        return [value for each, value in self.headers if each == name.encode()]


class HTTP2Client(AtTheServer):
    """Sends to an `HTTP2Connection` and reads what comes back, on a clock of its own.

    Frames that h2 would not send are given to `feed` as bytes.
    """

    def __init__(
        self, loop: ManualLoop, context: ConnectionContext, settings: dict[SettingCodes | int, int] | None = None
    ) -> None:
        self.loop = loop
        self.runtime = context.runtime
        self.connection = HTTP2Connection(context)
        self.runtime.connections.add(self.connection)
        self.transport = FakeTransport(loop, self.connection)
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(settings)
        self.responses: dict[int, Response] = {}
        self.goaways: list[GoAway] = []
        self.pings: list[bytes] = []
        self.settings: dict[int, int] = {}
        self.acknowledges = True
        self._read_to = 0
        self.connection.connection_made(self.transport)
        self.exchange()

    @classmethod
    def of(
        cls,
        loop: ManualLoop,
        app: ASGIApp | None = None,
        *,
        settings: dict[SettingCodes | int, int] | None = None,
        **config: Any,
    ) -> HTTP2Client:
        """A connection to a runtime of its own, by default with a `DrivenApp`."""
        return cls(loop, make_context(make_runtime(loop, app or DrivenApp(loop), **config)), settings)

    # -- the client's side

    def request(self, headers: Any = GET, body: bytes = b"", *, more: bool = False) -> int:
        """Send a request, without END_STREAM where more is to come; returns its stream."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=not (body or more))
        self.responses[stream] = Response()
        if body:
            self.h2.send_data(stream, body, end_stream=not more)
        self.exchange()
        return stream

    def send(self, stream: int, body: bytes, *, more: bool = False) -> None:
        """Send a piece of body."""
        self.h2.send_data(stream, body, end_stream=not more)
        self.exchange()

    def reset(self, stream: int) -> None:
        """Cancel a request."""
        self.h2.reset_stream(stream, 8)
        self.exchange()

    def ping(self) -> None:
        """Send a PING."""
        self.h2.ping(b"12345678")
        self.exchange()

    def give(self, increment: int, stream: int | None = None) -> None:
        """Let the server send more: on one stream, or on the connection."""
        self.h2.increment_flow_control_window(increment, stream)
        self.exchange()

    def exchange(self) -> None:
        """Carry what both sides have to say, until they have nothing more."""
        while True:
            data = self.h2.data_to_send()
            if data and not self.transport.closing:
                self.transport.feed(data)
            self.loop.run_ready()
            if not self._read():
                return

    def feed(self, data: bytes) -> None:
        """Send bytes as they are, and let the server react."""
        self.transport.feed(data)
        self.loop.run_ready()
        self._read()

    def lose(self) -> None:
        """Break the connection."""
        self.transport.lose()
        self.loop.run_ready()

    def response(self, stream: int = 1) -> Response:
        """What has come on a stream."""
        return self.responses[stream]

    # -- the server's side

    def sweep(self, seconds: float) -> None:
        """Let time pass, then do what the server does with it on its tick: deadlines and stalled writers."""
        super().sweep(seconds)
        self._read()

    def drain(self) -> None:
        """Begin the drain of the worker, without the client's answer to it."""
        self.runtime.draining = True
        self.connection.begin_drain()
        self.loop.run_ready()
        self._read()

    # -- inside

    def _read(self) -> bool:
        """Take whole frames. A GOAWAY is kept from h2, which would take nothing after it."""
        read_to = self._read_to
        while self._read_to + FRAME_HEADER <= len(self.sent):
            start = self._read_to
            end = start + FRAME_HEADER + int.from_bytes(self.sent[start : start + 3], "big")
            if end > len(self.sent):
                break
            frame = self.sent[start:end]
            self._read_to = end
            if frame[3] == GOAWAY:
                payload = frame[FRAME_HEADER:]
                self.goaways.append(GoAway(*(int.from_bytes(payload[at : at + 4], "big") for at in (0, 4))))
                continue
            for event in self.h2.receive_data(frame):
                self._take(event)
        return self._read_to > read_to

    def _take(self, event: Any) -> None:
        match event:
            case events.PingAckReceived():
                self.pings.append(event.ping_data)
            case events.RemoteSettingsChanged():
                self.settings |= {int(code): each.new_value for code, each in event.changed_settings.items()}
            case _ if getattr(event, "stream_id", 0):
                self._take_part(event, self.responses.setdefault(event.stream_id, Response()))

    def _take_part(self, event: Any, response: Response) -> None:
        match event:
            case events.ResponseReceived():
                response.headers = list(event.headers)
                response.status = int(response.headers[0][1])
            case events.InformationalResponseReceived():
                response.informational.append(list(event.headers))
            case events.DataReceived():
                response.body += event.data
                if self.acknowledges:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case events.TrailersReceived():
                response.trailers = list(event.headers)
            case events.StreamEnded():
                response.complete = True
            case events.StreamReset():
                response.reset = event.error_code
