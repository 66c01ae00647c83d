"""One stream between a fake wire and an application that the test drives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outrider.http1_encoding import EncodedFields, InvalidResponse, encode_fields
from outrider.http_stream import HTTPStream
from outrider_testing.fakes.application import Call, DrivenApp
from outrider_testing.fakes.log import FakeLog
from outrider_testing.fakes.runtime import make_runtime

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine, Iterable

    from outrider.file_region import FileRegion
    from outrider.http1_encoding import HeaderPair
    from outrider.runtime import Scope
    from outrider_testing.fakes.loop import ManualLoop


class FakeWire:
    """Keeps what a stream asks of its connection."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.writable: asyncio.Future[None] | None = None

    def encode(self, headers: Iterable[HeaderPair]) -> EncodedFields:
        return encode_fields(headers)

    def send_response(self, _: HTTPStream, status: int, fields: EncodedFields, body: bytes, more: bool) -> None:
        if fields[1] is not None and len(body) > fields[1]:
            raise InvalidResponse("too long")
        self.events.append((status, fields[0], body, more))

    def send_body(self, _: HTTPStream, body: bytes, more: bool) -> None:
        self.events.append((body, more))

    def send_continue(self, _: HTTPStream) -> None:
        self.events.append("continue")

    def response_complete(self, _: HTTPStream) -> None:
        self.events.append("complete")

    def cut(self, _: HTTPStream) -> None:
        self.events.append("cut")

    def send_informational(self, _: HTTPStream, status: int, headers: Iterable[HeaderPair]) -> None:
        self.events.append((status, list(headers)))

    def send_file(self, _: HTTPStream, region: FileRegion, more: bool) -> Coroutine[Any, Any, None] | None:
        return None

    def send_trailers(self, _: HTTPStream, headers: Iterable[HeaderPair]) -> None:
        self.events.append(("trailers", list(headers)))

    def body_consumed(self, _: HTTPStream) -> None:
        self.events.append("consumed")

    def wait_writable(self, _: HTTPStream) -> asyncio.Future[None] | None:
        return self.writable


class FakeObserver:
    """Keeps the requests that it is told of."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def started(self, scope: Scope) -> str:
        self.events.append(("started", scope["path"]))
        return "token"

    def finished(
        self, token: Any, scope: Scope, status: int, headers: Any, sent: int, close_code: int | None = None
    ) -> None:
        self.events.append((token, scope["path"], status, headers, sent, *([close_code] if close_code else [])))


class Exchange:
    """One stream with a fake wire and an application that the test drives."""

    def __init__(self, loop: ManualLoop, *, start: bool = True, **config: Any) -> None:
        self.loop = loop
        self.app = DrivenApp(loop)
        self.runtime = make_runtime(loop, self.app, **config)
        self.wire = FakeWire()
        self.observer = FakeObserver()
        scope = {"type": "http", "method": "GET", "path": "/x", "raw_path": b"/x", "client": None}
        self.stream = HTTPStream(self.runtime, self.wire, scope, 1)
        if start:
            self.start()

    def start(self) -> None:
        self.stream.start()
        self.loop.run_ready()

    @property
    def call(self) -> Call:
        return self.app.call

    @property
    def log(self) -> FakeLog:
        log = self.runtime.log
        assert isinstance(log, FakeLog)
        return log
