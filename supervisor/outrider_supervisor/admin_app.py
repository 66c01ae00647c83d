"""The ASGI application of the admin endpoint: probes, metrics, the status, the dashboard, and commands with a token.

Who may do what:

- `/livez`, `/readyz` and the page at `/`, which holds nothing but itself, are for everybody who can connect.
- The rest is as well where there is no token, which `read_config` allows on loopback and unix sockets alone. With a
  token it needs `Authorization: Bearer`.
- A command needs the token in any case.
- On a loopback address the Host must be one, so that no name that an attacker has pointed here (DNS rebinding) lets
  his page read along. A browser that sends a command for another page is told by its Origin. There is no CORS.
"""

from __future__ import annotations

import asyncio
import hmac
from http import HTTPStatus

from outrider.runtime import Message, Receive, Scope, Send
from outrider_supervisor.admin_address import is_loopback
from outrider_supervisor.asgi_answers import Refusal, answer, answer_error, follow, read_body, refuse_method
from outrider_supervisor.control_commands import CommandError, decode
from outrider_supervisor.event_feed import EventFeed
from outrider_supervisor.page import load_page
from outrider_supervisor.resources import EVENTS, METRICS, NAMES, Handler, Resources, header

API = "/api/"
METRICS_PATH = "/metrics"
COMMANDS = frozenset({"reload", "scale", "recycle", "dump"})
"""A command that ends the service, or replaces the supervisor, is the control socket's alone."""
_API_NAMES = NAMES - {METRICS}
OPEN_PATHS = {
    "/livez": "`200` while the supervisor runs.",
    "/readyz": "`200` if requests should be sent here, else `503`; a line says why not.",
    "/": "The dashboard.",
}
_PLAIN = b"text/plain; charset=utf-8"
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_STREAM_HEADERS = _HEADERS[1:]
"""A stream says by itself that it is not to be stored."""


class AdminApp:
    """The application. `token` may change while it serves."""

    def __init__(self, handler: Handler, feed: EventFeed, token: str, *, only_loopback: bool) -> None:
        """Prepare.

        Args:
            handler: the supervisor.
            feed: its events.
            token: what clients must know; empty for none.
            only_loopback: whether it is served on a loopback address.
        """
        self._token = token
        self._token_changed = asyncio.Event()
        self._handler = handler
        self._only_loopback = only_loopback
        self._resources = Resources(handler, feed)

    @property
    def token(self) -> str:
        """What clients must know. Who reads events by another one is cut off when it changes."""
        return self._token

    @token.setter
    def token(self, token: str) -> None:
        if token != self._token:
            self._token = token
            self._token_changed.set()
            self._token_changed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            await self._serve(scope, receive, send)
        except CommandError as error:
            await answer_error(send, HTTPStatus.BAD_REQUEST, str(error), _HEADERS)
        except Refusal as refusal:
            await answer_error(send, refusal.status, str(refusal), (*refusal.headers, *_HEADERS))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        name = path.removeprefix(API)
        self._check_host(scope)
        if path in OPEN_PATHS:
            await self._serve_open(scope, send)
        elif path == METRICS_PATH or (path.startswith(API) and name in _API_NAMES):
            if self.token:
                self._check_token(scope)
            name = METRICS if path == METRICS_PATH else name
            receive = _until(self._token_changed, receive)
            await self._resources.serve(name, scope, receive, send, _STREAM_HEADERS if name == EVENTS else _HEADERS)
        elif path.startswith(API) and name in COMMANDS:
            refuse_method(path, scope["method"], "POST")
            self._check_command(scope)
            command = decode(name, await read_body(receive))
            await follow(send, self._handler.submit(command), _STREAM_HEADERS)
        else:
            if self.token:
                self._check_token(scope)
            known = ", ".join(sorted([*OPEN_PATHS, METRICS_PATH, *(API + each for each in _API_NAMES | COMMANDS)]))
            raise Refusal(HTTPStatus.NOT_FOUND, f"there is no {path}; there are {known}")

    async def _serve_open(self, scope: Scope, send: Send) -> None:
        path = scope["path"]
        refuse_method(path, scope["method"], "GET", "HEAD")
        if path == "/":
            page = load_page()
            headers = (*_HEADERS, (b"content-security-policy", page.policy))
            await answer(send, HTTPStatus.OK, page.body, b"text/html; charset=utf-8", headers)
        elif path == "/livez":
            await answer(send, HTTPStatus.OK, b"ok\n", _PLAIN, _HEADERS)
        else:
            reason = self._handler.unreadiness()
            status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
            await answer(send, status, (reason or "ok").encode() + b"\n", _PLAIN, _HEADERS)

    def _check_host(self, scope: Scope) -> None:
        host = header(scope, b"host")
        if self._only_loopback and host and not is_loopback(_without_port(host)):
            raise Refusal(HTTPStatus.FORBIDDEN, "the Host must be localhost or a loopback address here")

    def _check_token(self, scope: Scope) -> None:
        scheme, _, given = header(scope, b"authorization").partition(" ")
        # In constant time, so that no answer that comes sooner tells how much of it was right.
        is_right = hmac.compare_digest(given.strip().encode("latin-1"), self.token.encode())
        if scheme.lower() != "bearer" or not is_right:
            sentence = "the token is wrong" if given else "this needs admin_token, as Authorization: Bearer TOKEN"
            raise Refusal(HTTPStatus.UNAUTHORIZED, sentence, [(b"www-authenticate", b'Bearer realm="outrider"')])

    def _check_command(self, scope: Scope) -> None:
        if not self.token:
            raise Refusal(
                HTTPStatus.FORBIDDEN, "commands need an admin_token, and none is set; the `outrider` command does not"
            )
        origin = header(scope, b"origin")
        # Where an opaque origin ("null") and a request without a Host meet, nothing is the same.
        is_of_another = bool(origin) and (origin.partition("://")[2].lower() or None) != header(scope, b"host").lower()
        if is_of_another or header(scope, b"sec-fetch-site") in ("cross-site", "same-site"):
            raise Refusal(HTTPStatus.FORBIDDEN, "commands are not taken from the pages of others (Origin)")
        self._check_token(scope)


def _without_port(host: str) -> str:
    return host.partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _until(event: asyncio.Event, receive: Receive) -> Receive:
    """A `receive` by which the client has left as soon as the event has come."""

    async def receive_or_end() -> Message:
        message, end = asyncio.ensure_future(receive()), asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((message, end), return_when=asyncio.FIRST_COMPLETED)
            return {"type": "http.disconnect"} if event.is_set() else message.result()
        finally:
            message.cancel()
            end.cancel()

    return receive_or_end
