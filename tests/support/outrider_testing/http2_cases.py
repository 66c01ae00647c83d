"""What a case of the HTTP/2 suite sends, and which answers the RFCs allow."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from outrider_testing import http2_frames as h2
from outrider_testing.http2_wire import Connect, WireClient

# Bytes to send, or what to do in their place: wait for something, make them from the server's settings.
Step = bytes | Callable[[WireClient], bytes | None]


class Answer(Protocol):
    """An allowed answer. `stream` is the one whose end must be awaited to tell, or 0."""

    @property
    def stream(self) -> int: ...
    def matches(self, client: WireClient) -> bool: ...


@dataclass(frozen=True)
class Accepted:
    """Nothing: no error of the connection, and on no stream."""

    stream: int = field(default=0, init=False)

    def matches(self, client: WireClient) -> bool:
        return not client.closed and client.goaway is None and not client.resets


@dataclass(frozen=True)
class Closed:
    """The end of the connection, with a word of explanation or without."""

    stream: int = field(default=0, init=False)

    def matches(self, client: WireClient) -> bool:
        return client.closed


class ConnectionFault:
    """A connection error (RFC 9113 §5.4.1): GOAWAY with one of the codes, and the end of the connection."""

    stream = 0

    def __init__(self, *codes: int) -> None:
        self.codes = codes

    def __repr__(self) -> str:
        return f"connection error {self.codes}"

    def matches(self, client: WireClient) -> bool:
        return client.closed and client.goaway in self.codes


class StreamFault(ConnectionFault):
    """A stream error (§5.4.2): RST_STREAM with one of the codes, while the connection goes on.

    It may be treated as a connection error with the same code.
    """

    def __init__(self, stream: int, *codes: int) -> None:
        super().__init__(*codes)
        self.reset_stream = stream

    def __repr__(self) -> str:
        return f"error {self.codes} on stream {self.reset_stream}"

    def matches(self, client: WireClient) -> bool:
        if super().matches(client):
            return True
        return not client.closed and client.goaway is None and client.resets.get(self.reset_stream) in self.codes


@dataclass(frozen=True)
class Response:
    """A whole response."""

    stream: int = 1
    status: int = 200
    body: bytes | None = None

    def matches(self, client: WireClient) -> bool:
        response = client.responses.get(self.stream)
        if response is None or not response.ended or response.status != self.status or client.closed:
            return False
        return self.body is None or bytes(response.body) == self.body


@dataclass(frozen=True)
class Told:
    """A response of the application at /scope, which tells what it was told: at least these values."""

    stream: int
    values: Mapping[str, Any] = field(default_factory=dict)
    headers: Sequence[h2.Field] = ()

    def matches(self, client: WireClient) -> bool:
        response = client.responses.get(self.stream)
        if response is None or not response.ended or response.status != 200:
            return False
        told = json.loads(response.body)
        wanted = [list(pair) for pair in self.headers]
        names = {name for name, _ in self.headers}
        return told | dict(self.values) == told and [pair for pair in told["headers"] if pair[0] in names] == wanted


@dataclass(frozen=True)
class Refused:
    """A whole response that says no (a status of 4xx or 5xx)."""

    stream: int = 1

    def matches(self, client: WireClient) -> bool:
        response = client.responses.get(self.stream)
        return response is not None and response.ended and response.status >= 400


@dataclass(frozen=True)
class Holds:
    """Anything else, said by a function."""

    what: str
    holds: Callable[[WireClient], bool]
    stream: int = 0

    def matches(self, client: WireClient) -> bool:
        return self.holds(client)


ACCEPTED = Accepted()
CLOSED = Closed()


class Case:
    """One connection: after the handshake (unless `bare`) the steps, at the end the allowed answers.

    `section` is that of RFC 9113 unless it says otherwise; `settings` are the client's first.
    """

    def __init__(
        self,
        section: str,
        sends: str,
        steps: Sequence[Step],
        *allowed: Answer,
        settings: bytes = h2.settings(),
        bare: bool = False,
    ) -> None:
        self.name = f"{section} {sends}"
        self.steps = steps
        self.allowed = allowed
        self.settings = settings
        self.bare = bare


def play(case: Case, connect: Connect) -> None:
    """Run a case on a connection of its own."""
    with connect() as client:
        if not case.bare:
            client.handshake(case.settings)
        for step in case.steps:
            octets = step if isinstance(step, bytes) else step(client)
            if octets:
                client.send(octets)
        # Frames are dealt with in order: what the server has to say about the others, it has said before this answer.
        client.synchronise()
        for stream in {answer.stream for answer in case.allowed} - {0}:
            client.read_until(lambda stream=stream: client.ended(stream), f"the end of stream {stream}")  # type: ignore[misc]  # bound now
        if client.goaway:
            client.read_until(lambda: False, "the end of the connection")
        assert any(answer.matches(client) for answer in case.allowed), f"{client.describe()}, allowed: {case.allowed}"


def parametrize(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Make a test of each case."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])


# Steps


def ended(stream: int) -> Step:
    """Wait for the whole response on a stream."""

    def wait(client: WireClient) -> None:
        client.response(stream)

    return wait


def answered(stream: int) -> Step:
    """Wait for the head of the response on a stream."""

    def wait(client: WireClient) -> None:
        client.read_until(lambda: stream in client.responses, f"a response on stream {stream}")

    return wait


def settled(client: WireClient) -> None:
    """Wait until the server has dealt with all that was sent."""
    client.synchronise()


def sized(make: Callable[[int], bytes], excess: int = 0) -> Step:
    """Make bytes from the largest frame that the server accepts, and some more."""

    def step(client: WireClient) -> bytes:
        return make(client.settings[h2.MAX_FRAME_SIZE] + excess)

    return step
