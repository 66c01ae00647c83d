"""Trailers, early hints and debug information between the application and a wire that is a fake."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.http_extensions import accepts_trailers, stems_from_disconnect
from outrider.http_stream import ClientDisconnected, Response
from outrider_testing.fakes import Exchange, ManualLoop

BODY = {"type": "http.response.body"}
START = {"type": "http.response.start", "status": 200, "headers": []}
TRAILING_START = START | {"trailers": True}
TRAILERS = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]}
HINT = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]}
LINKS = [(b"link", b"</a.css>; rel=preload"), (b"link", b"</b.js>; rel=preload")]


def with_length(size: int) -> dict[str, Any]:
    return START | {"headers": [(b"content-length", b"%d" % size)]}


def head_of(size: int) -> bytes:
    return b"content-length: %d\r\n" % size


@pytest.fixture
def exchange(loop: ManualLoop) -> Exchange:
    exchange = Exchange(loop)
    exchange.stream.scope["headers"] = [(b"te", b"trailers")]
    return exchange


# -- trailers


def test_trailers_end_a_response_that_promised_them(exchange: Exchange) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY | {"body": b"text"})
    assert exchange.stream.response.name == "TRAILING"
    exchange.call.send(TRAILERS)
    assert exchange.wire.events[1:] == [(b"text", True), ("trailers", [(b"x-sum", b"1")]), "complete"]
    assert exchange.stream.response is Response.COMPLETE


def test_first_and_last_body_of_a_response_with_trailers_is_not_its_end(exchange: Exchange) -> None:
    exchange.call.send(with_length(4) | {"trailers": True})
    exchange.call.send(BODY | {"body": b"text"})
    assert exchange.wire.events == [(200, head_of(4), b"text", True)]


def test_trailers_may_come_in_parts(exchange: Exchange) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    exchange.call.send(TRAILERS | {"more_trailers": True})
    assert exchange.stream.response is Response.TRAILING
    exchange.call.send({"type": "http.response.trailers", "headers": [[b"x-time", b"2"]]})
    assert exchange.wire.events[-2] == ("trailers", [(b"x-sum", b"1"), [b"x-time", b"2"]])


def test_promised_trailers_may_be_none(exchange: Exchange) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    exchange.call.send({"type": "http.response.trailers"})
    assert exchange.wire.events[-2:] == [("trailers", []), "complete"]


@pytest.mark.parametrize(
    "headers, accepts",
    [
        ([], False),
        ([(b"te", b"trailers")], True),
        ([(b"te", b"gzip, Trailers")], True),
        ([(b"te", b"gzip"), (b"te", b"trailers")], True),
        ([(b"te", b"gzip;q=0.5")], False),
        ([(b"trailer", b"trailers")], False),
    ],
)
def test_client_gets_only_trailers_that_it_accepts(exchange: Exchange, headers: Any, accepts: bool) -> None:
    assert accepts_trailers(headers) is accepts
    exchange.stream.scope["headers"] = headers
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    exchange.call.send(TRAILERS)
    assert exchange.wire.events[-2:] == [("trailers", [(b"x-sum", b"1")] if accepts else []), "complete"]


@pytest.mark.parametrize("name", [b"content-length", b"Transfer-Encoding", b"trailer", b"set-cookie", b"content-type"])
def test_field_that_may_not_be_a_trailer_is_an_error_and_cuts(exchange: Exchange, name: bytes) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    with pytest.raises(RuntimeError, match="may not be sent in trailers"):
        exchange.call.send({"type": "http.response.trailers", "headers": [(name, b"1")]})
    exchange.call.finish()
    assert exchange.wire.events[-1] == "cut"


@pytest.mark.parametrize("before", [[], [TRAILING_START], [START]])
def test_trailers_before_the_end_of_the_body_are_an_error(exchange: Exchange, before: list[Any]) -> None:
    for message in before:
        exchange.call.send(message)
    with pytest.raises(RuntimeError, match="was sent while the response was"):
        exchange.call.send(TRAILERS)


def test_body_after_its_end_is_an_error_where_trailers_are_owed(exchange: Exchange) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    with pytest.raises(RuntimeError, match="while the response was waiting for trailers"):
        exchange.call.send(BODY)


def test_response_without_its_promised_trailers_is_cut(exchange: Exchange) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    exchange.call.finish()
    assert exchange.wire.events[-1] == "cut"


# -- the end


def test_messages_after_the_end_are_ignored(exchange: Exchange) -> None:
    exchange.call.send(START)
    exchange.call.send(BODY)
    before = list(exchange.wire.events)
    for message in (START, BODY, TRAILERS, HINT, {"type": "http.response.pathsend"}):
        exchange.call.send(message)
    assert exchange.wire.events == before


def test_message_after_a_cut_tells_of_the_disconnect(exchange: Exchange) -> None:
    exchange.call.send(START)
    exchange.call.finish()
    assert exchange.wire.events[-1] == "cut"
    with pytest.raises(ClientDisconnected):
        exchange.call.send(BODY)


# -- errors that only say that the client has gone


def with_cause(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def with_context(error: BaseException, context: BaseException) -> BaseException:
    error.__context__ = context
    return error


GONE = ClientDisconnected()


@pytest.mark.parametrize(
    "error, stems",
    [
        (GONE, True),
        (ValueError(), False),
        (with_cause(ValueError(), GONE), True),
        (with_context(ValueError(), GONE), True),
        (with_cause(with_context(ValueError(), KeyError()), with_context(TypeError(), GONE)), True),
        (with_context(with_cause(ValueError(), KeyError()), with_cause(TypeError(), GONE)), True),
        (with_context(ValueError(), KeyError()), False),
        (BaseExceptionGroup("tasks", [GONE, with_context(ValueError(), GONE)]), True),
        (BaseExceptionGroup("tasks", [GONE, ValueError()]), False),
        (with_context(BaseExceptionGroup("tasks", [ValueError()]), GONE), True),
    ],
)
def test_error_stems_from_a_disconnect_where_it_was_raised_in_its_place(error: BaseException, stems: bool) -> None:
    assert stems_from_disconnect(error) is stems


def test_errors_that_refer_to_each_other_stem_from_none() -> None:
    first, second = ValueError(), KeyError()
    with_context(with_cause(first, second), second)
    with_context(second, first)
    assert not stems_from_disconnect(first)


# -- early hints


@pytest.mark.parametrize("before", [[], [with_length(0)]])
def test_hint_is_sent_before_the_head(exchange: Exchange, before: list[Any]) -> None:
    for message in before:
        exchange.call.send(message)
    exchange.call.send(HINT)
    exchange.call.send(HINT | {"links": [b"</c>"]})
    assert exchange.wire.events == [(103, LINKS), (103, [(b"link", b"</c>")])]


def test_hint_behind_the_head_is_dropped(exchange: Exchange) -> None:
    exchange.call.send(START)
    exchange.call.send(HINT)
    assert exchange.wire.events == [(200, b"", b"", True)]


def test_hint_behind_the_body_is_an_error(exchange: Exchange) -> None:
    exchange.call.send(TRAILING_START)
    exchange.call.send(BODY)
    with pytest.raises(RuntimeError, match="early_hint"):
        exchange.call.send(HINT)


# -- debug information


DEBUG = {"type": "http.response.debug", "info": {"template": "index.html"}}


def test_debug_information_goes_to_the_log(loop: ManualLoop) -> None:
    exchange = Exchange(loop, debug_extension=True)
    exchange.call.send(DEBUG)
    assert exchange.log.messages("debug") == ["Debug information of GET /x: {'template': 'index.html'}"]
    exchange.call.send(START)
    with pytest.raises(RuntimeError, match="debug"):
        exchange.call.send(DEBUG)


def test_debug_information_is_an_error_where_nobody_asked_for_it(exchange: Exchange) -> None:
    with pytest.raises(RuntimeError, match="debug"):
        exchange.call.send(DEBUG)


@pytest.mark.parametrize("debug_extension", [False, True])
def test_message_that_no_extension_has_is_an_error(loop: ManualLoop, debug_extension: bool) -> None:
    exchange = Exchange(loop, debug_extension=debug_extension)
    with pytest.raises(RuntimeError, match=r"'http\.response\.push' was sent while the response was pending"):
        exchange.call.send({"type": "http.response.push", "info": {}})
    assert exchange.log.entries == []
