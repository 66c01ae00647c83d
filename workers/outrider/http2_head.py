"""The header fields of an HTTP/2 request to an ASGI scope (RFC 9113 §8.3, ASGI HTTP scope).

libnghttp2 has already refused what makes a request malformed: names in upper case, fields of an HTTP/1.1 connection,
and pseudo-fields that are missing, unknown, repeated or out of place. What a request may be beyond that, it may be in
HTTP/1.1 as well: the rules and the treatment of proxies are shared.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from outrider import http1_rules as rules
from outrider.http1_head import ASGI, METHODS, believe_proxy, check_line, normalise, uncommon_method
from outrider.runtime import EXPECTS_CONTINUE, HEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outrider.config import HTTP2Config
    from outrider.http1_encoding import HeaderPair
    from outrider.runtime import ConnectionContext, Scope

_PSEUDO_FIELDS = (b":method", b":scheme", b":authority", b":path", b":protocol")
# RFC 9113 §6.5.2: what a field counts beside its name and value.
_FIELD_OVERHEAD = 32

_known_target = rules.known_targets.get
_known_hosts = rules.known_hosts


class Malformed(Exception):  # named after what RFC 9113 §8.1.1 calls it
    """A request whose stream ends with PROTOCOL_ERROR."""


def interpret(
    context: ConnectionContext, template: dict[str, Any], headers: Sequence[HeaderPair]
) -> tuple[Scope, int, bytes | None]:
    """Make the scope of a request; also returns its flags, and the protocol of an extended CONNECT (RFC 8441 §4).

    Raises:
        Malformed: Host contradicts the authority.
        rules.BadRequest: the request may not be served; it has the status to answer with.
    """
    runtime = context.runtime
    config = runtime.config
    fields = dict(headers)
    method = fields[b":method"]
    path = fields.get(b":path", b"")
    authority = fields.get(b":authority")
    protocol = fields.get(b":protocol")
    pseudo = 4 if path and authority and protocol is None else _count_pseudo_fields(fields)
    regular = headers[pseudo:]
    if len(fields) != len(headers):
        regular = _join_cookies(regular)
        rules.check_singletons(regular)
    check_line(config, method, path)
    if len(regular) > config.limit_request_fields:
        raise rules.BadRequest(431, "more header fields than limit_request_fields")
    content = b"".join(chain.from_iterable(regular))
    if len(content) + len(path) > config.short_header_list or (b"_" in content and b"_" in b"".join(fields)):
        _check_size(headers, config.http2)
        regular = normalise(context, list(regular))
    regular = _with_host(regular, fields.get(b"host"), authority)
    if protocol is not None:
        method = b"GET"
    scope = template.copy()
    if method != b"GET":
        scope["method"] = METHODS.get(method) or uncommon_method(method)
    _set_target(scope, config.root_path, path, method)
    scope["asgi"] = ASGI.copy()
    scope["headers"] = regular
    scope["extensions"] = template["extensions"].copy()
    scope["state"] = runtime.state.copy()
    flags = HEAD if method == b"HEAD" else 0
    if not context.notable.isdisjoint(fields):
        if b"expect" in fields:
            rules.check_expectation(fields[b"expect"])
            flags |= EXPECTS_CONTINUE
        if context.trusted_proxy:
            believe_proxy(context, regular, fields, scope)
    return scope, flags, protocol


def _set_target(scope: Scope, root_path: str, target: bytes, method: bytes) -> None:
    path, raw_path, query_string, authority = _known_target(target) or rules.split_target(target, method)
    if authority is not None:
        raise rules.BadRequest(400, "the :path is not a path")
    if root_path and target != b"*":
        path = root_path + path
        raw_path = root_path.encode() + raw_path
    scope["path"] = path
    scope["raw_path"] = raw_path
    scope["query_string"] = query_string


def _with_host(headers: Sequence[HeaderPair], host: bytes | None, authority: bytes | None) -> list[HeaderPair]:
    """Put the authority at the head of the fields, as Host (ASGI HTTP scope)."""
    if authority is None:
        authority = host or b""
        found = list(headers)
    elif host is None:
        found = [(b"host", authority), *headers]
    elif host.lower() != authority.lower():
        raise Malformed("Host and :authority differ (RFC 9113 §8.3.1)")
    else:
        found = [(b"host", authority), *(pair for pair in headers if pair[0] != b"host")]
    if authority not in _known_hosts:
        rules.check_host(authority)
    return found


def _count_pseudo_fields(fields: dict[bytes, bytes]) -> int:
    return sum(name in fields for name in _PSEUDO_FIELDS)


def _join_cookies(headers: Sequence[HeaderPair]) -> list[HeaderPair]:
    """Make one of the cookie fields that a client may split (RFC 9113 §8.2.3), where the first of them is."""
    crumbs = [value for name, value in headers if name == b"cookie"]
    if len(crumbs) < 2:
        return list(headers)
    first = next(position for position, pair in enumerate(headers) if pair[0] == b"cookie")
    joined = [pair for pair in headers if pair[0] != b"cookie"]
    joined.insert(first, (b"cookie", b"; ".join(crumbs)))
    return joined


def _check_size(headers: Sequence[HeaderPair], config: HTTP2Config | None) -> None:
    limit = config.max_header_list_size if config else 0
    if limit and sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in headers) > limit:
        raise rules.BadRequest(431, "the header fields are larger than http2_max_header_list_size")
