"""The opening handshake of a WebSocket (RFC 6455 §4.2): what is asked for, and what it becomes in ASGI."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from hashlib import sha1
from typing import TYPE_CHECKING

from outrider.http1_rules import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from outrider.http1_encoding import HeaderPair
    from outrider.runtime import Scope

VERSION = b"13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_SIZE = 16
_WEBSOCKET_SCHEMES = {"http": "ws", "https": "wss"}
# What the server says itself in the response, or what a response without a body can't say.
_NOT_THE_APPLICATIONS = frozenset(
    (
        b"connection",
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"transfer-encoding",
        b"upgrade",
    )
)


def asks_for_websocket(headers: Iterable[HeaderPair]) -> bool:
    """Whether `websocket` is among the protocols of Upgrade (RFC 9110 §7.8)."""
    return any(b"websocket" in [token.lower() for token in tokens] for tokens in _lists(headers, b"upgrade"))


def check_request(method: str, headers: list[HeaderPair]) -> None:
    """Check the request of a handshake over HTTP/1.1 (RFC 6455 §4.2.1).

    Raises:
        BadRequest: 426 for another version of the protocol, else 400.
    """
    if method != "GET":
        raise BadRequest(400, "a WebSocket handshake with another method than GET")
    if any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers):
        raise BadRequest(400, "a WebSocket handshake with a body")
    check_version(headers)
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    if len(keys) != 1 or not _is_key(keys[0]):
        raise BadRequest(400, "a WebSocket handshake whose key is not 16 bytes in base64")


def check_version(headers: Iterable[HeaderPair]) -> None:
    """Check that the client speaks the protocol of RFC 6455.

    Raises:
        BadRequest: 426.
    """
    versions = [value for name, value in headers if name == b"sec-websocket-version"]
    if versions != [VERSION]:
        fields = ((b"upgrade", b"websocket"), (b"sec-websocket-version", VERSION))
        raise BadRequest(426, "a WebSocket handshake of another version than 13", fields)


def accept_value(headers: Iterable[HeaderPair]) -> bytes:
    """The value of Sec-WebSocket-Accept for a request that `check_request` has passed (RFC 6455 §4.2.2)."""
    key = next(value for name, value in headers if name == b"sec-websocket-key")
    return b64encode(sha1(key + _GUID).digest())  # noqa: S324  # RFC 6455 §1.3 says SHA-1; it guards nothing


def websocket_scope(scope: Scope) -> Scope:
    """Turn the scope of an HTTP request into that of a WebSocket (ASGI WebSocket spec)."""
    scope = {name: value for name, value in scope.items() if name != "method"}
    scope["type"] = "websocket"
    scope["scheme"] = _WEBSOCKET_SCHEMES[scope["scheme"]]
    protocols = _lists(scope["headers"], b"sec-websocket-protocol")
    scope["subprotocols"] = [token.decode("latin-1") for tokens in protocols for token in tokens]
    extensions = scope.get("extensions") or {}
    scope["extensions"] = {"websocket.http.response": {}} | {
        name: value for name, value in extensions.items() if name == "tls"
    }
    return scope


def extension_offers(headers: Iterable[HeaderPair]) -> bytes:
    """What the client offers in Sec-WebSocket-Extensions; its lines are one list."""
    return b",".join(value for name, value in headers if name == b"sec-websocket-extensions")


def response_fields(given: Iterable[HeaderPair], subprotocol: str | None, extensions: bytes | None) -> list[HeaderPair]:
    """Header fields of the response that accepts: the application's, the subprotocol and the extensions.

    Raises:
        TypeError: the application's headers are no pairs.
    """
    fields = [(name, value) for name, value in given if bytes(name).lower() not in _NOT_THE_APPLICATIONS]
    if subprotocol is not None:
        fields.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
    if extensions is not None:
        fields.append((b"sec-websocket-extensions", extensions))
    return fields


def _is_key(value: bytes) -> bool:
    try:
        return len(b64decode(value, validate=True)) == _KEY_SIZE
    except binascii.Error:
        return False


def _lists(headers: Iterable[HeaderPair], wanted: bytes) -> Iterable[list[bytes]]:
    """The comma-separated lists in the lines of a header; empty elements do not count (RFC 9110 §5.6.1)."""
    for name, value in headers:
        if name == wanted:
            yield [token for element in value.split(b",") if (token := element.strip(b" \t"))]
