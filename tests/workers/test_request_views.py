"""gunicorn's request, response and environ made from an ASGI scope."""

from __future__ import annotations

from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from outrider.request_views import RequestView, ResponseView, raw_uri, request_environ, visible_path


def make_scope(**changes: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/caf\xe9 bar",
        "raw_path": b"/caf%C3%A9%20bar",
        "query_string": b"a=1&b=%20",
        "root_path": "/api",
        "headers": [
            (b"host", b"example.org"),
            (b"content-type", b"text/plain"),
            (b"x-twice", b"1"),
            (b"x-twice", b"2"),
            (b"x-latin", b"\xe9"),
        ],
        "client": ("192.0.2.1", 50000),
        "server": ("127.0.0.1", 8000),
        **changes,
    }


def test_request_view_shows_request() -> None:
    request = RequestView(make_scope())
    assert request.method == "POST"
    assert request.uri == "/caf%C3%A9%20bar?a=1&b=%20"
    assert request.path == "/caf%C3%A9%20bar"
    assert request.query == "a=1&b=%20"
    assert request.fragment == ""
    assert request.version == (1, 1)
    assert request.scheme == "https"
    assert request.headers[0] == ("HOST", "example.org")
    assert request.headers[-1] == ("X-LATIN", "\xe9")
    assert request.trailers == []
    assert request.remote_addr == request.peer_addr == ("192.0.2.1", 50000)


def test_request_view_shows_http2_and_unix_client() -> None:
    scope = make_scope(http_version="2", client=None)
    assert RequestView(scope).version == (2, 0)
    assert RequestView(scope).remote_addr == ""


def test_request_view_of_websocket_has_method_get() -> None:
    scope = make_scope(type="websocket")
    del scope["method"]
    assert RequestView(scope).method == "GET"
    assert request_environ(scope)["REQUEST_METHOD"] == "GET"


def test_response_view_shows_response() -> None:
    response = ResponseView(404, [(b"Content-Type", b"text/\xe9"), [b"Content-Length", b"12"]], 12)
    assert response.status == "404 Not Found"
    assert response.status_code == 404
    assert response.headers == [("Content-Type", "text/\xe9"), ("Content-Length", "12")]
    assert response.response_length == 12
    assert response.sent == 12
    assert response.headers_sent


def test_response_view_without_reason_and_length() -> None:
    response = ResponseView(599, [], 0)
    assert response.status == "599"
    assert response.response_length is None


def test_raw_uri_omits_empty_query() -> None:
    assert raw_uri(make_scope(query_string=b"")) == "/caf%C3%A9%20bar"


@pytest.mark.parametrize(
    "path,visible",
    [
        ("/plain", "/plain"),
        ("/caf\xe9", "/caf\xe9"),
        ("/\xa0", "/\xa0"),
        ("/a\n127.0.0.1 - -\r", "/a%0A127.0.0.1 - -%0D"),
        ("/\x1b[31m\u2028", "/%1B[31m%E2%80%A8"),
    ],
)
def test_visible_path_encodes_control_characters(path: str, visible: str) -> None:
    assert visible_path(make_scope(path=path)) == visible


def test_environ_describes_request() -> None:
    assert request_environ(make_scope()) == {
        "REQUEST_METHOD": "POST",
        "RAW_URI": "/caf%C3%A9%20bar?a=1&b=%20",
        "SCRIPT_NAME": "/api",
        "PATH_INFO": "/caf\xe9 bar",
        "QUERY_STRING": "a=1&b=%20",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "https",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "50000",
        "HTTP_HOST": "example.org",
        "HTTP_CONTENT_TYPE": "text/plain",
        "CONTENT_TYPE": "text/plain",
        "HTTP_X_TWICE": "2",
        "HTTP_X_LATIN": "\xe9",
    }


def test_environ_of_unix_socket_has_no_addresses() -> None:
    environ = request_environ(make_scope(client=None, server=("/run/app.sock", None)))
    assert "REMOTE_ADDR" not in environ
    assert environ["SERVER_NAME"] == "/run/app.sock"
    assert environ["SERVER_PORT"] == ""
    assert "SERVER_NAME" not in request_environ(make_scope(server=None))


def test_gunicorn_computes_atoms_from_views() -> None:
    class Elapsed:
        seconds, microseconds = 1, 2

    arguments: Any = (
        ResponseView(200, [], 5),
        RequestView(make_scope()),
        request_environ(make_scope()),
        Elapsed,
    )
    atoms = Logger(Config()).atoms(*arguments)
    assert (atoms["h"], atoms["s"], atoms["b"], atoms["{x-twice}i"]) == ("192.0.2.1", "200", "5", "2")
