"""The atoms of gunicorn's `access_log_format`, of which only those are computed that the format names."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, ItemsView, Iterator, KeysView, Sequence, ValuesView
from datetime import timedelta
from typing import Any

from gunicorn.glogging import SafeAtoms

from outrider.errors import ConfigurationError
from outrider.request_views import RequestView, ResponseView, raw_uri, request_environ, visible_path
from outrider.runtime import Scope

_CLF_TIME = "[%d/%b/%Y:%H:%M:%S %z]"
_NAMED_ATOM = re.compile(r"\{(.*)\}([ioe])", re.DOTALL)


class Line:
    """What a line of the access log is made of.

    `microseconds` is the time the request took, `close_code` that of a WebSocket.
    """

    __slots__ = ("close_code", "headers", "log", "microseconds", "scope", "sent", "status")

    def __init__(self, log: Any, scope: Scope, status: int, headers: Sequence[Any], sent: int) -> None:
        self.log = log
        self.scope = scope
        self.status = status
        self.headers = headers
        self.sent = sent
        self.microseconds = 0
        self.close_code: int | None = None

    def arguments(self) -> tuple[ResponseView, RequestView, dict[str, str], timedelta]:
        """Return the arguments of gunicorn's `Logger.access` and `Logger.atoms`."""
        return (
            ResponseView(self.status, self.headers, self.sent),
            RequestView(self.scope),
            request_environ(self.scope),
            timedelta(microseconds=self.microseconds),
        )


class LineAtoms(dict[str, Any]):
    """The atoms that the format names; all others follow once a filter or a formatter asks for them."""

    __slots__ = ("is_complete", "line")

    line: Line
    is_complete: bool

    def _complete(self) -> None:
        line = self.line
        if not self.is_complete:
            self.is_complete = True
            for key, value in SafeAtoms(line.log.atoms(*line.arguments())).items():
                self.setdefault(key, value)

    def __missing__(self, key: str) -> Any:
        self._complete()
        return super().get(key.lower() if key.startswith("{") else key, "-")

    def __bool__(self) -> bool:
        return True  # logging asks for each line, and a length would have to be computed

    def __len__(self) -> int:
        self._complete()
        return super().__len__()

    def __contains__(self, key: object) -> bool:
        self._complete()
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self._complete()
        return super().__iter__()

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict with all atoms."""
        self._complete()
        return super().get(key, default)

    def copy(self) -> dict[str, Any]:
        """Return a dict with all atoms."""
        self._complete()
        return super().copy()

    def keys(self) -> KeysView[str]:  # type: ignore[override]  # typeshed wants its private dict_keys
        """As of a dict with all atoms."""
        self._complete()
        return super().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]  # as keys()
        """As of a dict with all atoms."""
        self._complete()
        return super().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # as keys()
        """As of a dict with all atoms."""
        self._complete()
        return super().items()


def escape(text: str) -> str:
    """Escape quotes, as gunicorn's SafeAtoms does."""
    return text.replace('"', '\\"')


def _client(line: Line) -> str:
    client = line.scope.get("client")
    host: str = client[0] if client else "-"
    return host


def _request_line(line: Line) -> str:
    scope = line.scope
    return escape(f"{scope.get('method', 'GET')} {raw_uri(scope)} HTTP/{scope['http_version']}")


def _decimal_seconds(line: Line) -> str:
    seconds, microseconds = divmod(line.microseconds, 1_000_000)
    return f"{seconds}.{microseconds:06}"


_ATOMS: dict[str, Callable[[Line], object]] = {
    "h": _client,
    "r": _request_line,
    "s": lambda line: str(line.status),
    "m": lambda line: line.scope.get("method", "GET"),
    "U": lambda line: escape(visible_path(line.scope)),
    "q": lambda line: escape(line.scope["query_string"].decode("latin-1")),
    "H": lambda line: f"HTTP/{line.scope['http_version']}",
    "b": lambda line: str(line.sent),
    "B": lambda line: line.sent,
    "T": lambda line: line.microseconds // 1_000_000,
    "M": lambda line: line.microseconds // 1000,
    "D": lambda line: line.microseconds,
    "L": _decimal_seconds,
    "p": lambda _: f"<{os.getpid()}>",
}


class Format:
    """`access_log_format`, taken apart once: which atom comes from where."""

    __slots__ = (
        "_atoms",
        "_clock",
        "_constants",
        "_request_headers",
        "_response_headers",
        "_second",
        "_stamp",
        "_variables",
        "text",
    )

    def __init__(self, text: str, user_of: Callable[[str], str], clock: Callable[[], float]) -> None:
        """Take the format apart.

        Args:
            text: the format.
            user_of: gives the user in the value of an Authorization header.
            clock: seconds since the epoch.

        Raises:
            ConfigurationError: it cannot be formatted.
        """
        self.text = text
        self._clock = clock
        self._second = -1
        self._stamp = ""
        self._atoms: list[tuple[str, Callable[[Line], object]]] = []
        self._constants: dict[str, str] = {}
        self._request_headers: dict[bytes, list[tuple[str, Callable[[str], str]]]] = {}
        self._response_headers: dict[bytes, list[str]] = {}
        self._variables: list[tuple[str, str]] = []
        for key in _names_in(text):
            if key in _ATOMS:
                self._atoms.append((key, _ATOMS[key]))
            elif key == "t":
                self._atoms.append((key, self._now))
            else:
                self._constants[key] = "-"  # also of a header that does not come
                self._add_named(key)
        if "f" in self._constants:
            self._add_request_header(b"referer", "f", escape)
        if "u" in self._constants:
            self._add_request_header(b"authorization", "u", user_of)
        if "a" in self._constants:
            # environ has one name for both; the second gets this far where header_map is "dangerous".
            self._add_request_header(b"user-agent", "a", escape)
            self._add_request_header(b"user_agent", "a", escape)

    def atoms_of(self, line: Line) -> LineAtoms:
        """Compute the atoms of one line."""
        atoms = LineAtoms(self._constants)
        atoms.is_complete = False
        atoms.line = line
        for key, atom in self._atoms:
            atoms[key] = atom(line)
        if self._request_headers:
            wanted = self._request_headers
            for name, value in line.scope["headers"]:
                if name in wanted:
                    for key, convert in wanted[name]:
                        atoms[key] = convert(value.decode("latin-1"))
        if self._response_headers:
            self._take_response_headers(line, atoms)
        if self._variables:
            environ = {key.lower(): value for key, value in request_environ(line.scope).items()}
            for key, name in self._variables:
                atoms[key] = escape(environ.get(name, "-"))
        return atoms

    def _take_response_headers(self, line: Line, atoms: LineAtoms) -> None:
        for name, value in line.headers:
            for key in self._response_headers.get(bytes(name).lower(), ()):
                atoms[key] = escape(str(value, "latin-1"))

    def _add_named(self, key: str) -> None:
        named = _NAMED_ATOM.fullmatch(key.lower())
        if named is None:
            return
        name, kind = named.groups()
        if kind == "i":
            self._add_request_header(name.encode(), key, escape)
        elif kind == "o":
            self._response_headers.setdefault(name.encode(), []).append(key)
        else:
            self._variables.append((key, name))

    def _add_request_header(self, name: bytes, key: str, convert: Callable[[str], str]) -> None:
        self._request_headers.setdefault(name, []).append((key, convert))

    def _now(self, _: Line) -> str:
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._stamp = time.strftime(_CLF_TIME, time.localtime(second))
        return self._stamp


class _NameCollector(dict[str, int]):
    """Stands in for the atoms to learn which ones a format names: 0 can be shown as text and as a number."""

    def __missing__(self, key: str) -> int:
        return self.setdefault(key, 0)


def _names_in(text: str) -> list[str]:
    names = _NameCollector()
    try:
        _ = text % names
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"access_log_format is {text!r}, but must be made of atoms such as %(h)s ({error})"
        ) from None
    return list(names)
