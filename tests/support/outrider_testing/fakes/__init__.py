"""Stand-ins for the event loop, the transport, the log and the application, so that a test runs without I/O."""

from __future__ import annotations

from outrider_testing.fakes.application import Call, DrivenApp, constant, echo
from outrider_testing.fakes.client import AtTheServer, Client
from outrider_testing.fakes.exchange import Exchange, FakeObserver, FakeWire
from outrider_testing.fakes.log import FakeLog
from outrider_testing.fakes.loop import ManualLoop
from outrider_testing.fakes.responses import Answer, parse_answers
from outrider_testing.fakes.runtime import make_config, make_context, make_runtime
from outrider_testing.fakes.tls_transport import FakeTLSTransport
from outrider_testing.fakes.transport import FakeSocket, FakeTransport

__all__ = [
    "Answer",
    "AtTheServer",
    "Call",
    "Client",
    "DrivenApp",
    "Exchange",
    "FakeLog",
    "FakeObserver",
    "FakeSocket",
    "FakeTLSTransport",
    "FakeTransport",
    "FakeWire",
    "ManualLoop",
    "constant",
    "echo",
    "make_config",
    "make_context",
    "make_runtime",
    "parse_answers",
]
