"""What RFC 9110 and RFC 9112 demand of a request head beyond what llhttp checks.

llhttp (httptools) already refuses bare CR and LF, control bytes, obsolete folding, spaces before the colon,
Content-Length beside Transfer-Encoding, repeated or odd Content-Length, and bad chunk sizes. This file has the rest.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

HeaderPair = tuple[bytes, bytes]


class BadRequest(Exception):  # named after the status it becomes
    """A request that is answered by the server itself, after which the connection closes. `fields` go with that."""

    def __init__(self, status: int, reason: str, fields: tuple[HeaderPair, ...] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.fields = fields


# Decoded path, raw path, query string, and the authority of an absolute-form target (RFC 9112 §3.2.2) or None.
# A plain tuple, because it is unpacked for every request.
Target = tuple[str, bytes, bytes, bytes | None]


# RFC 3986 §3.2.2: reg-name, IPv4 or [IP-literal], then an optional port; no userinfo (RFC 9110 §4.2.4).
_HOST = re.compile(
    rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+(?::[0-9]*)?"
    rb"|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9\-._~]+)?\](?::[0-9]*)?"
    rb"|\[v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+\](?::[0-9]*)?"
)
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_CACHED_TARGETS = 2048
_CACHED_SIZE = 512

# Bounded caches of what was found good; the hot path looks here before it calls.
known_targets: dict[bytes, Target] = {}
known_hosts: set[bytes] = set()


def split_target(url: bytes, method: bytes) -> Target:
    """Split a request target into decoded path, raw path and query (ASGI HTTP scope; RFC 9112 §3.2).

    Raises:
        BadRequest: 400 for a fragment, userinfo or an unusable authority, and `*` with another method than OPTIONS.
    """
    if url == b"*":
        if method != b"OPTIONS":
            raise BadRequest(400, "the target * is for OPTIONS only")
        return "*", b"*", b"", None
    if method == b"CONNECT":
        raise BadRequest(501, "the method CONNECT is not implemented")
    target = _parse_target(url)
    if len(url) <= _CACHED_SIZE:
        if len(known_targets) >= _CACHED_TARGETS:
            known_targets.clear()
        known_targets[url] = target
    return target


def _parse_target(url: bytes) -> Target:
    if b"#" in url:
        raise BadRequest(400, "the request target has a fragment")
    authority = None
    rest = url
    if not url.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(url)
        if absolute is None:
            raise BadRequest(400, "the request target is neither a path nor an http URL")
        authority, rest = absolute.groups()
        check_host(authority)
        if not rest.startswith(b"/"):
            rest = b"/" + rest
    raw_path, _, query = rest.partition(b"?")
    path = unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path
    return path.decode("utf-8", "replace"), raw_path, query, authority


def check_host(host: bytes) -> None:
    """Validate a Host value (RFC 9110 §7.2).

    Raises:
        BadRequest: 400 if it is empty, has userinfo, or is no host with an optional port.
    """
    if not _HOST.fullmatch(host):
        raise BadRequest(400, "the Host is empty or invalid")
    if len(host) <= _CACHED_SIZE:
        if len(known_hosts) >= _CACHED_TARGETS:
            known_hosts.clear()
        known_hosts.add(host)


def check_transfer_encoding(headers: list[HeaderPair], version: str) -> None:
    """Allow only `Transfer-Encoding: chunked`, once, from an HTTP/1.1 client (RFC 9112 §6.1).

    Raises:
        BadRequest: 501 for a coding before `chunked` that this server does not decode, else 400.
    """
    values = [value for name, value in headers if name == b"transfer-encoding"]
    if version != "1.1":
        raise BadRequest(400, "Transfer-Encoding in an HTTP/1.0 request")
    codings = [coding.strip(b" \t").lower() for coding in b",".join(values).split(b",")]
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        raise BadRequest(400, "Transfer-Encoding does not end with one chunked")
    if len(codings) > 1:
        raise BadRequest(501, "a transfer coding that this server does not decode")


def asks_to_close(headers: list[HeaderPair]) -> bool:
    """Whether `close` is among the Connection options; llhttp overlooks it beside HTTP/1.0's `keep-alive`."""
    return any(
        name == b"connection" and b"close" in [option.strip(b" \t") for option in value.lower().split(b",")]
        for name, value in headers
    )


def check_expectation(value: bytes) -> None:
    """Accept only `100-continue` (RFC 9110 §10.1.1).

    Raises:
        BadRequest: 417.
    """
    if value.lower() != b"100-continue":
        raise BadRequest(417, "an expectation other than 100-continue")


def check_singletons(headers: list[HeaderPair]) -> None:
    """Refuse a second Host (RFC 9112 §3.2) or Content-Type (RFC 9110 §8.3): readers would disagree on it.

    Raises:
        BadRequest: 400.
    """
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and name in (b"host", b"content-type"):
            raise BadRequest(400, f"more than one {name.decode().title()} header")
        seen.add(name)


def check_field_sizes(headers: list[HeaderPair], limit: int) -> None:
    """Hold every field line, with its colon, space and CRLF, to the `limit` in bytes (0: none).

    Raises:
        BadRequest: 431.
    """
    if limit and any(len(name) + len(value) + 4 > limit for name, value in headers):
        raise BadRequest(431, "a header field is larger than limit_request_field_size")


def apply_header_map(headers: list[HeaderPair], policy: str, forwarder: frozenset[bytes]) -> list[HeaderPair]:
    """gunicorn's `header_map` for names with an underscore: drop, refuse or dangerous (let pass).

    `forwarder` holds the lower-case names that a trusted proxy may send regardless; `*` stands for all.

    Raises:
        BadRequest: 400 under `refuse`.
    """
    if policy == "dangerous" or b"*" in forwarder:
        return headers
    kept = [pair for pair in headers if b"_" not in pair[0] or pair[0] in forwarder]
    if policy == "refuse" and len(kept) < len(headers):
        raise BadRequest(400, "a header name has an underscore (header_map is refuse)")
    return kept
