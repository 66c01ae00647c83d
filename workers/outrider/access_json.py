"""Requests as JSON, one object a line."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from typing import Any

from outrider.log_atoms import Line, LineAtoms
from outrider.log_journal import priority
from outrider.log_json import JSONFormatter, Stamper, to_json
from outrider.runtime import Scope

# What a request may be called: visible ASCII that fits a line.
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
# W3C Trace Context §3.2: version, trace-id, parent-id, flags; only versions to come may have more.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
LONGEST = 4095
"""Bytes of a line without its end: what the kernel writes to a pipe as one (PIPE_BUF of pipe(7))."""
_LONGEST_TEXT = 1024
_CLIENTS_TEXTS = ("method", "path", "query", "host", "user_agent", "referer")
_TEXT_HEADERS = {b"host": "host", b"user-agent": "user_agent", b"referer": "referer"}


class AccessFormatter(JSONFormatter):
    """A request as an object; a record that is none, which a logger class of the user may write, as an event."""

    def __init__(
        self,
        generation: int | None = None,
        prefix: str = "",
        clock: Callable[[], float] = time.time,
        *,
        for_journal: bool = False,
    ) -> None:
        """As JSONFormatter, for this process. `clock` gives seconds since the epoch."""
        super().__init__(generation, prefix, for_journal=for_journal)
        self._clock = clock
        self._stamp = Stamper()
        pid, number = os.getpid(), "" if generation is None else f'"generation":{generation},'
        self._before = (priority(logging.INFO) if for_journal else "") + prefix + '{"time":"'
        self._behind = f'","level":"INFO","logger":"gunicorn.access","pid":{pid},{number}'
        # Of its own for each process: the ids of two workers must differ.
        self._id_prefix = os.urandom(6).hex()
        self._count = 0

    def format(self, record: logging.LogRecord) -> str:
        """logging: the line of a record."""
        atoms = record.args
        return self.text_of(atoms.line) if isinstance(atoms, LineAtoms) else super().format(record)

    def text_of(self, line: Line) -> str:
        """The line of a request."""
        scope = line.scope
        fields: dict[str, Any] = {
            "request_id": "",
            "method": scope.get("method", "GET"),
            "path": scope["raw_path"].decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "http_version": scope["http_version"],
            "status": line.status,
            "duration": line.microseconds / 1_000_000,
            "bytes": line.sent,
        }
        client = scope.get("client")
        if client:
            fields["client"] = client[0]
        _take_headers(scope, fields)
        if not fields["request_id"]:
            self._count += 1
            fields["request_id"] = f"{self._id_prefix}{self._count:08x}"
        _take_route(scope, fields)
        if line.close_code is not None:
            fields["close_code"] = line.close_code
        before = f"{self._before}{self._stamp(self._clock())}{self._behind}"
        return before + _object_within(LONGEST - len(before), fields)[1:]


def _object_within(size: int, fields: dict[str, Any]) -> str:
    """JSON of that size at most: texts of the client that are too long for it are cut."""
    line = to_json(fields)
    longest = _LONGEST_TEXT
    while len(line) > size and longest:
        for name in _CLIENTS_TEXTS:
            text = str(fields.get(name, ""))
            if len(text) > longest:
                fields[name] = text[:longest] + "\u2026"
        line = to_json(fields)
        longest //= 2
    return line


def _take_headers(scope: Scope, fields: dict[str, Any]) -> None:
    traceparent = None
    for name, value in scope["headers"]:
        if name in _TEXT_HEADERS:
            fields[_TEXT_HEADERS[name]] = value.decode("latin-1")
        elif name == b"x-request-id":
            if _REQUEST_ID.fullmatch(value):
                fields["request_id"] = value.decode("ascii")
        elif name == b"traceparent":
            traceparent = value if traceparent is None else b""  # W3C Trace Context §3.2: two are none
    if traceparent:
        found = _parse_traceparent(traceparent)
        if found is not None:
            fields["trace_id"], fields["span_id"], fields["trace_flags"] = found


def _parse_traceparent(value: bytes) -> tuple[str, str, str] | None:
    found = _TRACEPARENT.fullmatch(value)
    if found is None or (found[1] == b"00" and found[5] is not None):
        return None
    return found[2].decode(), found[3].decode(), found[4].decode()


def _take_route(scope: Scope, fields: dict[str, Any]) -> None:
    """Where the framework says which route it took: its template, or at least what was called."""
    template = scope.get("path_template")  # Litestar
    route = scope.get("route")  # Starlette, FastAPI
    if template is None and route is not None:
        template = _starlette_template(scope, route)
    if isinstance(template, str) and template:
        fields["route"] = template
        return
    endpoint = scope.get("endpoint")
    name = getattr(endpoint, "__qualname__", None)
    if isinstance(name, str):
        fields["endpoint"] = f"{endpoint.__module__}.{name}"


def _starlette_template(scope: Scope, route: Any) -> Any:
    own = scope.get("fastapi")
    # A route of a router that was included knows its path without the prefix of the router.
    included = own.get("effective_route_context") if isinstance(own, dict) else None
    template = getattr(included, "path", None) or getattr(route, "path", None)
    if isinstance(template, str) and "app_root_path" in scope:
        # In a Mount, which has added its own path to root_path; what it mounts may be no routes of Starlette's.
        mounted = scope["root_path"].removeprefix(scope["app_root_path"])
        return mounted if hasattr(route, "routes") else mounted + template
    return template
