"""Requests as JSON, one object a line."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from litestar import Litestar, get
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from outrider.access_json import LONGEST, AccessFormatter
from outrider.log_atoms import Line

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"


def make_scope(**changes: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/caf\xe9",
        "raw_path": b"/caf%C3%A9",
        "query_string": b'a="1"',
        "root_path": "",
        "headers": [],
        "client": ("192.0.2.1", 50000),
        "server": ("127.0.0.1", 8000),
        **changes,
    }


def make_line(scope: dict[str, Any], close_code: int | None = None) -> Line:
    line = Line(None, scope, 200, [], 13)
    line.microseconds = 1_234_567
    line.close_code = close_code
    return line


def fields_of(scope: dict[str, Any], formatter: AccessFormatter | None = None, **options: Any) -> dict[str, Any]:
    text = (formatter or AccessFormatter()).text_of(make_line(scope, **options))
    assert text.isascii()
    assert "\n" not in text
    fields: dict[str, Any] = json.loads(text)
    return fields


def fields_of_headers(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return fields_of(make_scope(headers=list(headers)))


def test_request_has_its_fields() -> None:
    headers = [
        (b"host", b"example.org"),
        (b"user-agent", b"Agent \xe9\x1b"),
        (b"referer", b"http://example.org/"),
        (b"x-request-id", b"r-1"),
        (b"traceparent", b"00-%b-%b-01" % (TRACE, SPAN)),
    ]
    assert fields_of(make_scope(headers=headers), AccessFormatter(7, clock=lambda: 1795262400.25)) == {
        "time": "2026-11-21T12:00:00.250000Z",
        "level": "INFO",
        "logger": "gunicorn.access",
        "pid": os.getpid(),
        "generation": 7,
        "request_id": "r-1",
        "method": "GET",
        "path": "/caf%C3%A9",
        "query": 'a="1"',
        "http_version": "1.1",
        "status": 200,
        "duration": 1.234567,
        "bytes": 13,
        "client": "192.0.2.1",
        "host": "example.org",
        "user_agent": "Agent \xe9\x1b",
        "referer": "http://example.org/",
        "trace_id": TRACE.decode(),
        "span_id": SPAN.decode(),
        "trace_flags": "01",
    }


def test_what_is_not_there_is_left_out() -> None:
    fields = fields_of(make_scope(client=None))
    assert not {"generation", "client", "host", "user_agent", "referer", "trace_id", "route", "close_code"} & set(
        fields
    )


def test_websocket_has_its_close_code() -> None:
    scope = make_scope(type="websocket")
    del scope["method"]
    fields = fields_of(scope, close_code=1001)
    assert (fields["method"], fields["close_code"]) == ("GET", 1001)


def test_record_of_another_kind_is_an_event() -> None:
    record = logging.LogRecord("gunicorn.access", logging.INFO, "", 0, "own %s", ("line",), None)
    assert json.loads(AccessFormatter().format(record))["message"] == "own line"


# -- request ids


@pytest.mark.parametrize("value", [b"", b"a b", b"a\x1b", b"caf\xe9", b"x" * 129])
def test_request_id_that_is_not_sane_is_replaced(value: bytes) -> None:
    own = fields_of_headers((b"x-request-id", value))["request_id"]
    assert len(own) == 20
    assert own.encode() != value


def test_longest_request_id_is_kept() -> None:
    assert fields_of_headers((b"x-request-id", b"x" * 128))["request_id"] == "x" * 128


def test_own_request_ids_differ() -> None:
    formatters = AccessFormatter(), AccessFormatter()
    ids = {fields_of(make_scope(), formatter)["request_id"] for formatter in formatters for _ in range(10)}
    assert len(ids) == 20


# -- W3C Trace Context


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-%b-%b" % (TRACE, SPAN),
        b"00-%b-%b-01-more" % (TRACE, SPAN),
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01" % (TRACE.upper(), SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-01" % (TRACE[:31], SPAN),
        b"00-%b-%b-01 " % (TRACE, SPAN),
        b"01-%b-%b-01more" % (TRACE, SPAN),
    ],
)
def test_invalid_traceparent_is_left_out(value: bytes) -> None:
    assert "trace_id" not in fields_of_headers((b"traceparent", value))


@pytest.mark.parametrize("more", [b"", b"-", b"-what comes"])
def test_traceparent_of_a_later_version_is_read(more: bytes) -> None:
    fields = fields_of_headers((b"traceparent", b"cc-%b-%b-03%b" % (TRACE, SPAN, more)))
    assert (fields["trace_id"], fields["trace_flags"]) == (TRACE.decode(), "03")


def test_two_traceparents_are_none() -> None:
    header = (b"traceparent", b"00-%b-%b-01" % (TRACE, SPAN))
    assert "trace_id" not in fields_of_headers(header, header)
    assert "trace_id" not in fields_of_headers(header, header, header)


# -- routes, as the frameworks have them


async def answer(request: Any) -> PlainTextResponse:  # noqa: ARG001  # an endpoint's
    return PlainTextResponse("hello")


async def read_item(number: int) -> dict[str, int]:
    return {"number": number}


@get("/litestar/{number:int}")
async def read_number() -> str:
    return "hello"


def make_fastapi() -> FastAPI:
    app, mounted, router = FastAPI(), FastAPI(), APIRouter()
    router.get("/items/{number}")(read_item)
    mounted.get("/items/{number}")(read_item)
    app.get("/top/{number}")(read_item)
    app.include_router(router, prefix="/api/v1")
    app.mount("/mounted", mounted)
    return app


STARLETTE = Starlette(
    routes=[
        Route("/items/{number}", answer),
        Mount("/mounted", routes=[Route("/items/{number}", answer)]),
        Mount("/static", app=PlainTextResponse("hello")),
    ]
)


@pytest.mark.parametrize(
    "app, path, route",
    [
        (STARLETTE, "/items/3", "/items/{number}"),
        (STARLETTE, "/mounted/items/3", "/mounted/items/{number}"),
        (STARLETTE, "/static/a.css", "/static"),
        (make_fastapi(), "/top/3", "/top/{number}"),
        (make_fastapi(), "/api/v1/items/3", "/api/v1/items/{number}"),
        (make_fastapi(), "/mounted/items/3", "/mounted/items/{number}"),
        (Litestar([read_number]), "/litestar/3", "/litestar/{number}"),
    ],
)
@pytest.mark.parametrize("root_path", ["", "/prefix"])
def test_framework_says_which_route_it_took(app: Any, path: str, route: str, root_path: str) -> None:
    scope = make_scope(
        path=root_path + path,
        raw_path=(root_path + path).encode(),
        root_path=root_path,
        headers=[(b"host", b"a")],
        state={},
        extensions={},
        asgi={"version": "3.0"},
    )
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    asyncio.run(app(scope, receive, send))
    assert statuses == [200]
    fields = fields_of(scope)
    assert fields["route"] == route
    assert "endpoint" not in fields


def test_endpoint_stands_for_the_route_where_there_is_none() -> None:
    fields = fields_of(make_scope(endpoint=read_item))
    assert fields["endpoint"] == f"{__name__}.read_item"
    assert "route" not in fields


@pytest.mark.parametrize("scope", [{"route": SimpleNamespace(path=5)}, {"path_template": ""}, {"endpoint": object()}])
def test_what_is_no_route_is_left_out(scope: dict[str, Any]) -> None:
    assert not {"route", "endpoint"} & set(fields_of(make_scope(**scope)))


def test_line_is_written_to_a_pipe_as_one_however_much_the_client_sends() -> None:
    long = "\xff" * 8000
    headers = [(name, long.encode("latin-1")) for name in (b"host", b"user-agent", b"referer")]
    headers.append((b"x-request-id", b"r" * 128))
    scope = make_scope(headers=headers, raw_path=b"/" + b"a" * 4000, query_string=b"b" * 4000)
    line = AccessFormatter().text_of(make_line(scope))
    assert len(line) <= LONGEST
    fields = json.loads(line)
    assert fields["user_agent"].startswith("\xff" * 60)
    assert fields["user_agent"].endswith("\u2026")
    assert fields["user_agent"].endswith("\u2026")
    assert (fields["status"], fields["request_id"]) == (200, "r" * 128)
