"""Which peers may speak for a client, and what their X-Forwarded-* headers say.

Nothing here runs for a request without such headers.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from typing import TYPE_CHECKING

from outrider.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Address = tuple[str, int]
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_CACHED_HOSTS = 1024
_MAX_PORT = 0xFFFF
_MAPPED_BITS = 96  # RFC 4291 §2.5.5.2: ::ffff:0:0/96


class ForwardedError(ValueError):
    """Headers of a trusted peer contradict each other: 400."""


class TrustedPeers:
    """The addresses of `forwarded_allow_ips` or `proxy_allow_ips`."""

    __slots__ = ("_cache", "_networks", "everyone")

    def __init__(self, networks: Iterable[_Network], *, everyone: bool = False) -> None:
        self._networks = tuple(_unmap(network) for network in networks)
        self.everyone = everyone
        self._cache: dict[str, bool] = {}

    @classmethod
    def parse(cls, entries: Iterable[str], setting: str = "forwarded_allow_ips") -> TrustedPeers:
        """Read addresses, CIDR networks and "*" (everyone); `setting` is the name used in errors.

        Raises:
            ConfigurationError: an entry is none of these, or a network with host bits set.
        """
        networks = []
        everyone = False
        for entry in entries:
            if entry == "*":
                everyone = True
                continue
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError as error:
                raise ConfigurationError(
                    f"{setting}: {entry!r} is not allowed ({error}); use addresses, networks such as 10.0.0.0/8, or *"
                ) from error
        return cls(networks, everyone=everyone)

    def trusts(self, host: str | None) -> bool:
        """Whether the peer at `host` is trusted.

        A peer without an address (None or "") came through a unix socket. It is always trusted, as by
        gunicorn: who may connect is decided by the permissions of the socket's path.
        """
        if self.everyone or not host:
            return True
        trusted = self._cache.get(host)
        if trusted is None:
            trusted = self._look_up(host)
            if len(self._cache) >= _CACHED_HOSTS:
                self._cache.clear()
            self._cache[host] = trusted
        return trusted

    def client_from(self, values: Sequence[bytes], peer: Address | None) -> Address | None:
        """Return (host, port) of the client according to X-Forwarded-For, or None: the peer is the client.

        It is the rightmost hop that is not itself trusted, since whatever is left of that hop is only what it
        claims; if all are trusted (always so with "*"), the leftmost. A hop that is no address ends the walk
        with the hop on its right. The port is 0 where the hop has none.

        Args:
            values: the header's lines in order of arrival.
            peer: who sent them, None for a unix socket; if not trusted, the header is void. Behind a PROXY
                header it is the source named there, not the proxy, which does not look into the request.
        """
        if not self.trusts(peer[0] if peer else None):
            return None
        client = None
        for text in reversed(b",".join(values).split(b",")):
            hop = text.strip(b" \t")
            if not hop:
                continue  # RFC 9110 §5.6.1: empty list elements do not count
            address = _parse_hop(hop)
            if address is None:
                break
            client = address
            if not self.trusts(address[0]):
                break
        return client

    def _look_up(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any(address in network or (mapped and mapped in network) for network in self._networks)


def secure_schemes(setting: Mapping[str, str]) -> dict[bytes, bytes]:
    """Turn gunicorn's `secure_scheme_headers` into what `scheme_from` takes.

    Raises:
        ConfigurationError: a name or value is not a string of Latin-1 characters.
    """
    try:
        return {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in setting.items()}
    except (AttributeError, UnicodeEncodeError) as error:
        raise ConfigurationError(
            f"secure_scheme_headers: {setting!r} is not allowed; use a dict of strings, header name to value"
        ) from error


def scheme_from(headers: Iterable[tuple[bytes, bytes]], secure: Mapping[bytes, bytes]) -> str | None:
    """Return "https" or "http" as a trusted peer's headers say, or None if they say nothing.

    As in gunicorn, a listed header with the listed value means https, with any other value http. Unlike
    there, case does not matter and `wss` is as good as `https`: Traefik sends it for WebSockets.

    Args:
        headers: (lower-case name, value) pairs.
        secure: lower-case name to the value that means https, from `secure_schemes`.

    Raises:
        ForwardedError: two of the headers disagree.
    """
    scheme = None
    for name, value in headers:
        expected = secure.get(name)
        if expected is None:
            continue
        said = value.lower()
        is_secure = said == expected.lower() or (expected.lower() == b"https" and said == b"wss")
        claim = "https" if is_secure else "http"
        if scheme not in (None, claim):
            raise ForwardedError(f"{name.decode('latin-1')} contradicts another header about the scheme")
        scheme = claim
    return scheme


def _unmap(network: _Network) -> _Network:
    """Turn a network of IPv4-mapped addresses into the IPv4 network it stands for."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


@lru_cache(maxsize=_CACHED_HOSTS)
def _parse_hop(hop: bytes) -> Address | None:
    """Read `a.b.c.d`, `a.b.c.d:port`, `v6`, `[v6]` or `[v6]:port`; None for anything else."""
    host, port = hop, b""
    if hop.startswith(b"["):
        host, bracket, port = hop[1:].partition(b"]")
        if not bracket or (port and not port.startswith(b":")):
            return None
        family = socket.AF_INET6
        port = port[1:] if port else b"0"
    elif hop.count(b":") > 1:
        family, port = socket.AF_INET6, b"0"
    else:
        family = socket.AF_INET
        host, colon, port = hop.partition(b":")
        port = port if colon else b"0"
    # bytes.isdigit() is ASCII only. inet_pton refuses zone ids, which a peer could fill with anything.
    if not port.isdigit() or len(port) > 5 or int(port) > _MAX_PORT:
        return None
    try:
        packed = socket.inet_pton(family, host.decode("ascii"))
    except (OSError, ValueError):
        return None
    return socket.inet_ntop(family, packed), int(port)
