"""A parsed request head to an ASGI scope: the rules of `http1_rules`, then proxy headers (ASGI HTTP scope).

An everyday head takes the short way: one dict, one set comparison, one cached target. Whatever is notable about a
head sends it through `_examine` and `_forwarded`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from outrider import http1_rules as rules
from outrider.forwarded import ForwardedError, scheme_from
from outrider.runtime import EXPECTS_CONTINUE, HEAD, HTTP10, UPGRADE

if TYPE_CHECKING:
    from outrider.config import ServerConfig
    from outrider.http1_encoding import HeaderPair
    from outrider.runtime import ConnectionContext, Scope

FORWARDED_FOR = b"x-forwarded-for"
# A head with one of these gets a closer look.
NOTABLE = frozenset((b"connection", b"transfer-encoding", b"expect", b"upgrade"))

METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_NOT_HTTP = frozenset(
    b"CONNECT SOURCE DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD "
    b"FLUSH".split()
)
# It has neither chunks for trailers to follow, nor interim responses.
_NOT_IN_HTTP10 = ("http.response.trailers", "http.response.early_hint")
ASGI = {"version": "3.0", "spec_version": "2.5"}
_known_target = rules.known_targets.get
_known_hosts = rules.known_hosts
_LINE_FRAME = len("  HTTP/1.1")


class Parser(Protocol):
    """What llhttp knows of the head that is complete now."""

    def get_method(self) -> bytes: ...
    def get_http_version(self) -> str: ...
    def should_keep_alive(self) -> bool: ...
    def should_upgrade(self) -> bool: ...


def interpret(
    context: ConnectionContext, parser: Parser, url: bytes, headers: list[HeaderPair], odd: bool
) -> tuple[Scope, int]:
    """Make the scope of a request and its exchange flags.

    `odd` says that a name may hold an underscore, a value may end in white space, or a line may exceed its limit.

    Raises:
        rules.BadRequest: the head may not be served; it has the status to answer with.
    """
    runtime = context.runtime
    config = runtime.config
    method = parser.get_method()
    count = len(headers)
    if count > config.limit_request_fields:
        raise rules.BadRequest(431, "more header fields than limit_request_fields")
    if odd:
        check_line(config, method, url)
        headers = normalise(context, headers)
        count = len(headers)
    scope = context.scope_template.copy()
    scope["extensions"] = scope["extensions"].copy()
    flags = context.flags
    path, raw_path, query_string, authority = _known_target(url) or rules.split_target(url, method)
    fields = dict(headers)
    if len(fields) != count:
        rules.check_singletons(headers)
    if not parser.should_keep_alive() or not context.notable.isdisjoint(fields):
        flags = _examine(context, parser, headers, fields, scope)
    if fields.get(b"host") not in _known_hosts:
        _check_host(fields, scope)
    if authority is not None:
        # RFC 9112 §3.2.2: the authority of an absolute-form target replaces Host.
        headers = [(b"host", authority), *(pair for pair in headers if pair[0] != b"host")]
    if method != b"GET":
        scope["method"] = METHODS.get(method) or uncommon_method(method)
        if method == b"HEAD":
            flags |= HEAD
    if config.root_path and url != b"*":
        path = config.root_path + path
        raw_path = config.root_path.encode() + raw_path
    scope["asgi"] = ASGI.copy()
    scope["path"] = path
    scope["raw_path"] = raw_path
    scope["query_string"] = query_string
    scope["headers"] = headers
    scope["state"] = runtime.state.copy()
    return scope, flags


def _check_host(fields: dict[bytes, bytes], scope: Scope) -> None:
    if b"host" in fields:
        rules.check_host(fields[b"host"])
    elif scope["http_version"] == "1.1":
        raise rules.BadRequest(400, "an HTTP/1.1 request without Host")


def check_line(config: ServerConfig, method: bytes, url: bytes) -> None:
    """Hold a request line to `limit_request_line`.

    Raises:
        rules.BadRequest: it is longer.
    """
    if config.limit_request_line and len(method) + len(url) + _LINE_FRAME > config.limit_request_line:
        raise rules.BadRequest(414, "the request line is longer than limit_request_line")


def normalise(context: ConnectionContext, headers: list[HeaderPair]) -> list[HeaderPair]:
    """Strip white space that llhttp leaves after values (RFC 9112 §5.1), check sizes, apply `header_map`."""
    config = context.runtime.config
    rules.check_field_sizes(headers, config.limit_request_field_size)
    forwarder = config.forwarder_headers if context.trusted_proxy else frozenset()
    return rules.apply_header_map(
        [(name, value.rstrip(b" \t")) for name, value in headers], config.header_map, forwarder
    )


def _examine(
    context: ConnectionContext,
    parser: Parser,
    headers: list[HeaderPair],
    fields: dict[bytes, bytes],
    scope: Scope,
) -> int:
    """Exchange flags of a head with something notable in it; corrects the scope to match."""
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        raise rules.BadRequest(505, f"HTTP/{version} is not served on this connection")
    flags = context.flags if parser.should_keep_alive() else 0
    if version == "1.0":
        if flags and rules.asks_to_close(headers):
            flags = 0
        flags |= HTTP10
        scope["http_version"] = version
        for name in _NOT_IN_HTTP10:
            del scope["extensions"][name]
    if parser.should_upgrade():
        flags |= UPGRADE
    if b"transfer-encoding" in fields:
        rules.check_transfer_encoding(headers, version)
    if b"expect" in fields and version == "1.1":
        rules.check_expectation(fields[b"expect"])
        flags |= EXPECTS_CONTINUE
    if context.trusted_proxy:
        believe_proxy(context, headers, fields, scope)
    return flags


def believe_proxy(
    context: ConnectionContext, headers: list[HeaderPair], fields: dict[bytes, bytes], scope: Scope
) -> None:
    """Put scheme and client into the scope as a trusted proxy reports them."""
    config = context.runtime.config
    if FORWARDED_FOR in fields:
        values = [value for name, value in headers if name == FORWARDED_FOR]
        scope["client"] = config.trusted_proxies.client_from(values, context.client) or context.client
    try:
        scope["scheme"] = scheme_from(headers, config.secure_scheme_headers) or context.scheme
    except ForwardedError as error:
        raise rules.BadRequest(400, str(error)) from error


def uncommon_method(method: bytes) -> str:
    """The name of a method that is not in `METHODS`.

    Raises:
        rules.BadRequest: it is none of HTTP, although llhttp knows it, or CONNECT.
    """
    if method in _NOT_HTTP:
        raise rules.BadRequest(501, f"the method {method.decode()} is not implemented")
    return method.decode("ascii")
