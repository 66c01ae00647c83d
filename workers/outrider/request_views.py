"""gunicorn's request, response and environ as its hooks and loggers know them, made from an ASGI scope."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from outrider.runtime import Address, Scope, path_of

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class RequestView:
    """A request as `pre_request`, `post_request` and `Logger.access` get it; computed as it is read."""

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @property
    def method(self) -> str:
        """Such as GET."""
        method: str = self._scope.get("method", "GET")
        return method

    @property
    def uri(self) -> str:
        """Path and query as they came."""
        return raw_uri(self._scope)

    @property
    def path(self) -> str:
        """The path as it came, still percent-encoded."""
        return self._scope["raw_path"].decode("latin-1")  # type: ignore[no-any-return]  # of the ASGI scope

    @property
    def query(self) -> str:
        """What follows the question mark."""
        return self._scope["query_string"].decode("latin-1")  # type: ignore[no-any-return]  # as path

    @property
    def fragment(self) -> str:
        """Always empty: a request target has none (RFC 9112 §3.2)."""
        return ""

    @property
    def version(self) -> tuple[int, int]:
        """Such as (1, 1)."""
        major, _, minor = self._scope["http_version"].partition(".")
        return int(major), int(minor or 0)

    @property
    def scheme(self) -> str:
        """http or https."""
        scheme: str = self._scope["scheme"]
        return scheme

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names in upper case, and values."""
        return [(name.decode("latin-1").upper(), value.decode("latin-1")) for name, value in self._scope["headers"]]

    @property
    def trailers(self) -> list[tuple[str, str]]:
        """Always empty: trailers are not kept."""
        return []

    @property
    def remote_addr(self) -> Address | str:
        """Host and port of the client; empty where a Unix socket has none."""
        return self._scope.get("client") or ""

    peer_addr = remote_addr


class ResponseView:
    """A response as `post_request` and `Logger.access` get it. `sent` is the bytes of its body."""

    __slots__ = ("_headers", "sent", "status_code")

    headers_sent = True

    def __init__(self, status: int, headers: Sequence[Any], sent: int) -> None:
        self.status_code = status
        self._headers = headers
        self.sent = sent

    @property
    def status(self) -> str:
        """Code and reason, such as "200 OK"."""
        try:
            return f"{self.status_code} {HTTPStatus(self.status_code).phrase}"
        except ValueError:
            return str(self.status_code)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names and values as the application sent them."""
        return [(str(name, "latin-1"), str(value, "latin-1")) for name, value in self._headers]

    @property
    def response_length(self) -> int | None:
        """Content-Length, if the application gave one."""
        for name, value in self.headers:
            if name.lower() == "content-length":
                return int(value)
        return None


def raw_uri(scope: Scope) -> str:
    """Return path and query as they came."""
    path = path_of(scope)
    query = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def visible_path(scope: Scope) -> str:
    """Return the decoded path. Control characters stay encoded, so that %0a can't forge a line of the log."""
    path: str = scope["path"]
    return path if path.isprintable() else _CONTROL.sub(lambda control: quote(control[0]), path)


def request_environ(scope: Scope) -> dict[str, str]:
    """Return gunicorn's environ, as far as an access log or a hook can make sense of it.

    Of a header that came more than once the last value counts, as in gunicorn's own asgi worker.
    """
    environ = {
        "REQUEST_METHOD": scope.get("method", "GET"),
        "RAW_URI": raw_uri(scope),
        "SCRIPT_NAME": scope.get("root_path", ""),
        "PATH_INFO": visible_path(scope),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.url_scheme": scope["scheme"],
    }
    server = scope.get("server")
    if server:
        environ["SERVER_NAME"] = server[0]
        environ["SERVER_PORT"] = "" if server[1] is None else str(server[1])
    client = scope.get("client")
    if client:
        environ["REMOTE_ADDR"] = client[0]
        environ["REMOTE_PORT"] = str(client[1])
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        text = value.decode("latin-1")
        environ[f"HTTP_{key}"] = text
        if key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            environ[key] = text
    return environ
