"""The probe: one request in process, which must be answered with a 2xx."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from outrider.probe import CANCEL_PATIENCE, PROBE_AGENT, PROBE_TIMEOUT, ProbeError, probe
from outrider.runtime import ASGIApp, Runtime
from outrider_testing.fakes import DrivenApp, FakeLog, ManualLoop, constant, make_runtime


def run(loop: ManualLoop, app: ASGIApp, path: str = "/health", **config: Any) -> Runtime:
    runtime = make_runtime(loop, app, **config)
    loop.run_until_complete(probe(runtime, path))
    return runtime


def failure(loop: ManualLoop, app: ASGIApp) -> str:
    with pytest.raises(ProbeError) as caught:
        run(loop, app)
    return str(caught.value)


@pytest.mark.parametrize("status", [200, 204, 299])
def test_application_that_answers_2xx_passes(loop: ManualLoop, status: int) -> None:
    run(loop, constant(status=status))


@pytest.mark.parametrize("status", [199, 300, 404, 503])
def test_application_that_answers_otherwise_fails(loop: ManualLoop, status: int) -> None:
    message = failure(loop, constant(status=status))
    assert message == f"probe_path /health: the application answered {status}, a 2xx is needed"


def test_application_that_does_not_answer_fails(loop: ManualLoop) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        pass

    message = failure(loop, app)
    assert message == "probe_path /health: the application gave no answer, a 2xx is needed"


def test_application_that_raises_fails_with_the_reason(loop: ManualLoop) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ValueError("no database")

    runtime = make_runtime(loop, app)
    with pytest.raises(ProbeError) as caught:
        loop.run_until_complete(probe(runtime, "/health"))
    assert str(caught.value) == "probe_path /health: the application raised ValueError('no database')"
    assert cast("FakeLog", runtime.log).messages("error") == ["Exception in ASGI application"]


def test_probe_is_a_request_of_its_own_agent(loop: ManualLoop) -> None:
    seen = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 200})

    runtime = run(loop, app, "/he%C3%A4lth?deep=1", root_path="/root")
    (scope,) = seen
    assert scope["method"] == "GET"
    assert scope["path"] == "/root/heälth"
    assert scope["raw_path"] == b"/root/he%C3%A4lth"
    assert scope["root_path"] == "/root"
    assert scope["query_string"] == b"deep=1"
    assert (b"user-agent", PROBE_AGENT) in scope["headers"]
    assert scope["client"] is None
    assert scope["state"] == runtime.state
    assert scope["state"] is not runtime.state


def test_probe_disconnects_when_it_is_answered(loop: ManualLoop) -> None:
    app = DrivenApp(loop)
    runtime = make_runtime(loop, app)
    probing = loop.create_task(probe(runtime, "/"))
    loop.run_ready()
    call = app.call
    assert call.receive() == {"type": "http.request", "body": b"", "more_body": False}
    waiting = call.receiving()
    call.start()
    call.body(b"a", more=True)
    assert not waiting.done()
    call.body(b"b")
    assert waiting.result() == {"type": "http.disconnect"}
    assert not probing.done()
    call.finish()
    probing.result()


def test_probe_that_is_not_answered_fails_in_time(loop: ManualLoop) -> None:
    app = DrivenApp(loop)
    probing = loop.create_task(probe(make_runtime(loop, app), "/health"))
    loop.run_ready()
    loop.advance(PROBE_TIMEOUT - 0.1)
    assert not probing.done()
    loop.advance(0.2)
    assert app.call.cancelled
    with pytest.raises(ProbeError, match=r"^probe_path /health: the application has not ended its answer after 30 s$"):
        probing.result()


@pytest.mark.parametrize("is_late", [True, False])
def test_probe_leaves_an_application_behind_that_does_not_end(loop: ManualLoop, *, is_late: bool) -> None:
    released = asyncio.Event()

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        raise ValueError("too late to be of interest")

    probing = loop.create_task(probe(make_runtime(loop, app), "/"))
    loop.run_ready()
    if is_late:
        loop.advance(PROBE_TIMEOUT)
    else:
        probing.cancel()
        loop.run_ready()
    assert not probing.done()
    loop.advance(CANCEL_PATIENCE)
    with pytest.raises(ProbeError if is_late else asyncio.CancelledError):
        probing.result()
    released.set()
    loop.run_ready()


def test_cancelled_probe_cancels_the_application(loop: ManualLoop) -> None:
    app = DrivenApp(loop)
    probing = loop.create_task(probe(make_runtime(loop, app), "/"))
    loop.run_ready()
    probing.cancel()
    loop.run_ready()
    assert app.call.cancelled
    with pytest.raises(asyncio.CancelledError):
        probing.result()
