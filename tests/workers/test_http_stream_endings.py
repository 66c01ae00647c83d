"""How a request ends: by its application, its client, or the drain; and who is told. The wire is a fake."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.errors import Aborted
from outrider.http_stream import ClientDisconnected
from outrider.meters import CELLS, Meter, histograms_of
from outrider.runtime import Scope
from outrider_testing.fakes import Exchange, FakeObserver, ManualLoop

BODY = {"type": "http.response.body"}
START = {"type": "http.response.start", "status": 200, "headers": []}
START_WITH_LENGTH = START | {"headers": [(b"content-length", b"4")]}
DISCONNECT = {"type": "http.disconnect"}


@pytest.fixture
def exchange(loop: ManualLoop) -> Exchange:
    return Exchange(loop)


# -- an application that fails


def test_exception_before_the_start_is_a_500_with_its_traceback_in_the_log(exchange: Exchange) -> None:
    error = ValueError("boom")
    exchange.call.fail(error)
    status, headers, body, more = exchange.wire.events[0]
    assert (status, body, more) == (500, b"Internal Server Error", False)
    assert b"content-length: 21\r\n" in headers
    assert exchange.wire.events[1:] == ["complete"]
    assert exchange.log.messages("error") == ["Exception in ASGI application: GET /x"]
    assert exchange.log.exceptions == [error]
    assert exchange.runtime.counters.errors_5xx == 1
    assert exchange.runtime.streams == set()


def test_exception_between_start_and_body_is_a_500(exchange: Exchange) -> None:
    exchange.call.send(START_WITH_LENGTH)
    exchange.call.fail(ValueError())
    assert exchange.wire.events[0][0] == 500


def test_exception_after_the_start_cuts_the_connection(exchange: Exchange) -> None:
    exchange.call.send(START)
    exchange.call.fail(ValueError())
    assert exchange.wire.events == [(200, b"", b"", True), "cut"]
    assert len(exchange.log.exceptions) == 1
    exchange.stream.feed_body(b"late")
    assert exchange.stream.buffered == 0
    assert exchange.call.receive() == DISCONNECT


def test_exception_after_the_end_is_only_logged(exchange: Exchange) -> None:
    exchange.call.send(START)
    exchange.call.send(BODY)
    exchange.call.fail(ValueError())
    assert exchange.wire.events[-1] == "complete"
    assert len(exchange.log.exceptions) == 1


@pytest.mark.parametrize("messages, event", [([], "complete"), ([START_WITH_LENGTH], "complete"), ([START], "cut")])
def test_return_without_a_whole_response_is_an_error(exchange: Exchange, messages: list[Any], event: str) -> None:
    for message in messages:
        exchange.call.send(message)
    exchange.call.finish()
    assert exchange.wire.events[-1] == event
    assert exchange.log.messages("error") == ["ASGI application returned without completing its response: GET /x"]


def test_cancelled_call_is_a_503(exchange: Exchange) -> None:
    exchange.stream.cancel()
    exchange.loop.run_ready()
    assert exchange.call.cancelled
    assert exchange.wire.events[0][0] == 503
    exchange.stream.cancel()


def test_cancelled_call_with_a_whole_response_is_no_error(exchange: Exchange) -> None:
    exchange.call.send(START)
    exchange.call.send(BODY)
    exchange.stream.cancel()
    exchange.loop.run_ready()
    assert exchange.log.entries == []


def test_call_that_is_cancelled_before_it_begins_is_forgotten(loop: ManualLoop) -> None:
    exchange = Exchange(loop, start=False)
    exchange.stream.start()
    exchange.stream.cancel()
    assert exchange.runtime.streams == set()
    loop.run_ready()
    assert exchange.app.calls == []


def test_abort_of_the_worker_passes_through(exchange: Exchange) -> None:
    with pytest.raises(Aborted):
        exchange.call.fail(Aborted(1))
    assert exchange.wire.events == []


def test_cancel_before_the_start_does_nothing(loop: ManualLoop) -> None:
    Exchange(loop, start=False).stream.cancel()


# -- a client that leaves


def test_app_is_told_at_once_and_send_raises(exchange: Exchange) -> None:
    receiving = exchange.call.receiving()
    exchange.stream.disconnect(connection_lost=True)
    exchange.loop.run_ready()
    assert receiving.result() == DISCONNECT
    assert exchange.call.receive() == DISCONNECT
    with pytest.raises(ClientDisconnected):
        exchange.call.send(START)
    assert exchange.wire.events == []


def test_error_of_an_app_that_meets_the_disconnect_is_no_error(exchange: Exchange) -> None:
    exchange.stream.disconnect(connection_lost=True)
    exchange.call.fail(ClientDisconnected("as send() raises"))
    assert exchange.log.messages("error") == []
    assert exchange.log.messages("debug") == ["Client left during GET /x"]


def replaced(*, chained: bool = True) -> Exception:
    """What a framework raises in the place of our error; Starlette does."""
    try:
        try:
            raise ClientDisconnected("as send() raises")
        except OSError as error:
            if chained:
                raise ValueError("the client left") from error
            raise ValueError("the client left")  # noqa: B904  # the context is what is tested
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        replaced(),
        replaced(chained=False),
        ExceptionGroup("tasks", [ClientDisconnected(), ExceptionGroup("more", [replaced()])]),
    ],
)
def test_error_that_stands_for_the_disconnect_is_no_error(exchange: Exchange, error: Exception) -> None:
    exchange.stream.disconnect(connection_lost=True)
    exchange.call.fail(error)
    assert exchange.log.messages("error") == []
    assert exchange.log.messages("debug") == ["Client left during GET /x"]


def test_error_of_another_clients_disconnect_is_logged(exchange: Exchange) -> None:
    exchange.call.fail(replaced())
    assert exchange.wire.events[0][0] == 500
    assert len(exchange.log.exceptions) == 1


def test_group_with_another_error_is_logged(exchange: Exchange) -> None:
    exchange.stream.disconnect(connection_lost=True)
    exchange.call.fail(ExceptionGroup("tasks", [ClientDisconnected(), ValueError()]))
    assert len(exchange.log.exceptions) == 1


def test_error_that_is_its_own_cause_is_logged(exchange: Exchange) -> None:
    error = ValueError()
    error.__cause__ = error
    exchange.stream.disconnect(connection_lost=True)
    exchange.call.fail(error)
    assert exchange.log.exceptions == [error]


def test_other_error_after_the_disconnect_is_logged_only(exchange: Exchange) -> None:
    exchange.stream.disconnect(connection_lost=True)
    exchange.call.fail(ValueError())
    assert exchange.wire.events == []
    assert len(exchange.log.exceptions) == 1


@pytest.mark.parametrize("grace", [0, 3])
def test_app_is_cancelled_after_the_grace_period(loop: ManualLoop, grace: float) -> None:
    exchange = Exchange(loop, disconnect_grace=grace)
    exchange.stream.disconnect(connection_lost=True)
    exchange.stream.disconnect(connection_lost=True)
    if grace:
        loop.advance(grace - 1)
        assert not exchange.call.cancelled
    loop.advance(1)
    assert exchange.call.cancelled
    assert exchange.wire.events == []
    assert exchange.log.messages("error") == []


def test_app_that_has_returned_is_not_cancelled(loop: ManualLoop) -> None:
    exchange = Exchange(loop, disconnect_grace=3)
    exchange.call.finish()
    exchange.stream.disconnect(connection_lost=True)
    loop.advance(5)
    assert not exchange.call.cancelled


def test_disconnect_before_the_start_cancels_nothing(loop: ManualLoop) -> None:
    exchange = Exchange(loop, start=False)
    exchange.stream.disconnect(connection_lost=True)
    loop.advance(5)
    assert exchange.app.calls == []


def test_half_close_ends_receive_but_not_send(exchange: Exchange) -> None:
    exchange.stream.feed_body(b"a")
    exchange.stream.end_body()
    exchange.stream.disconnect(connection_lost=False)
    assert exchange.call.receive()["body"] == b"a"
    assert exchange.call.receive() == DISCONNECT
    exchange.call.send(START)
    exchange.call.send(BODY)
    assert exchange.wire.events[-1] == "complete"
    exchange.loop.advance(60)
    assert not exchange.call.cancelled


# -- drain

SSE = START | {"headers": [(b"x", b"y"), (b"Content-Type", b"Text/Event-Stream; charset=utf-8")]}


@pytest.mark.parametrize(
    "start, last_call, told", [(SSE, False, True), (SSE, True, True), (START, False, False), (START, True, True)]
)
def test_streaming_app_is_told_of_the_drain(exchange: Exchange, start: Any, last_call: bool, told: bool) -> None:
    exchange.stream.end_body()
    exchange.call.receive()
    receiving = exchange.call.receiving()
    exchange.call.send(start)
    exchange.stream.notify_drain(last_call=last_call)
    exchange.loop.run_ready()
    assert receiving.done() is told
    exchange.call.send(BODY)
    assert exchange.wire.events[-1] == "complete"


def test_app_that_has_not_answered_is_not_told_of_the_drain(exchange: Exchange) -> None:
    receiving = exchange.call.receiving()
    exchange.stream.notify_drain(last_call=True)
    exchange.loop.run_ready()
    assert not receiving.done()


def test_end_of_a_call_is_a_change_during_the_drain(exchange: Exchange) -> None:
    changes: list[str] = []
    exchange.runtime.on_change = lambda: changes.append("change")
    exchange.runtime.draining = True
    exchange.call.finish()
    assert changes == ["change"]


# -- what others are told


def observed(loop: ManualLoop) -> Exchange:
    exchange = Exchange(loop, start=False)
    exchange.runtime.observer = exchange.observer
    exchange.start()
    return exchange


def test_observer_is_told_of_start_and_end(loop: ManualLoop) -> None:
    exchange = observed(loop)
    assert exchange.observer.events == [("started", "/x")]
    headers = START_WITH_LENGTH["headers"]
    exchange.call.send(START_WITH_LENGTH)
    exchange.call.send(BODY | {"body": b"text"})
    exchange.call.finish()
    assert exchange.observer.events[1:] == [("token", "/x", 200, headers, 4)]


def test_observer_is_told_of_a_response_that_was_cut(loop: ManualLoop) -> None:
    exchange = observed(loop)
    exchange.call.send(START)
    exchange.call.send(BODY | {"body": b"text", "more_body": True})
    exchange.call.fail(ValueError())
    assert exchange.observer.events[1:] == [("token", "/x", 200, [], 4)]


def test_observer_is_told_of_the_500(loop: ManualLoop) -> None:
    exchange = observed(loop)
    exchange.call.fail(ValueError())
    assert [(status, sent) for _, _, status, _, sent in exchange.observer.events[1:]] == [(500, 21)]


def test_error_of_the_observer_is_a_500(loop: ManualLoop) -> None:
    class Refuses(FakeObserver):
        def started(self, scope: Scope) -> str:
            raise ValueError(scope["path"])

    exchange = Exchange(loop, start=False)
    exchange.runtime.observer = observer = Refuses()
    exchange.start()
    assert exchange.app.calls == []
    assert exchange.wire.events[0][0] == 500
    assert exchange.wire.events[1:] == ["complete"]
    assert observer.events == []


def test_requests_are_counted(loop: ManualLoop) -> None:
    exchange = Exchange(loop)
    reached: list[int] = []
    exchange.runtime.max_requests = 1
    exchange.runtime.on_max_requests = lambda: reached.append(exchange.runtime.counters.requests)
    assert exchange.runtime.streams == {exchange.stream}
    exchange.call.send(START | {"status": 503})
    exchange.call.send(BODY)
    assert exchange.runtime.counters.requests == 1
    assert exchange.runtime.counters.errors_5xx == 1
    assert reached == [1]


@pytest.mark.parametrize("method, status, counted", [("POST", 503, ("POST", 5)), ("BREW", 200, ("_OTHER", 2))])
def test_requests_are_metered(loop: ManualLoop, method: str, status: int, counted: tuple[str, int]) -> None:
    cells = memoryview(bytearray(8 * CELLS)).cast("Q")
    exchange = Exchange(loop, start=False)
    exchange.runtime.meter = Meter(cells)
    exchange.stream.scope["method"] = method
    exchange.start()
    exchange.call.send(START | {"status": status})
    assert histograms_of(cells) == {}
    exchange.call.send(BODY)
    (key, histogram), *others = histograms_of(cells).items()
    assert (key, histogram.requests, others) == (counted, 1, [])
    assert 0 < histogram.seconds < 5


def test_request_whose_method_the_application_took_out_is_metered(loop: ManualLoop) -> None:
    cells = memoryview(bytearray(8 * CELLS)).cast("Q")
    exchange = Exchange(loop, start=False)
    exchange.runtime.meter = Meter(cells)
    exchange.start()
    del exchange.stream.scope["method"]
    exchange.call.send(START)
    exchange.call.send(BODY)
    assert [*histograms_of(cells)] == [("_OTHER", 2)]
