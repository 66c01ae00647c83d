from __future__ import annotations

from typing import Any

import pytest

from outrider import forwarded
from outrider.errors import ConfigurationError
from outrider.forwarded import ForwardedError, TrustedPeers, scheme_from, secure_schemes

GUNICORN_DEFAULT = secure_schemes(
    {"X-FORWARDED-PROTOCOL": "ssl", "X-FORWARDED-PROTO": "https", "X-FORWARDED-SSL": "on"}
)


@pytest.mark.parametrize(
    "entries, host, trusted",
    [
        (["127.0.0.1", "::1"], "127.0.0.1", True),
        (["127.0.0.1", "::1"], "::1", True),
        (["127.0.0.1", "::1"], "127.0.0.2", False),
        (["127.0.0.1"], "::1", False),
        (["10.0.0.0/8"], "10.255.0.1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["2001:db8::/32"], "2001:db8:1::1", True),
        (["2001:db8::/32"], "2001:db9::1", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["*"], "203.0.113.9", True),
        (["*"], "not an address", True),
        (["0.0.0.0/0", "::/0"], "not an address", False),
        ([], "127.0.0.1", False),
    ],
)
def test_trust_covers_addresses_and_networks(entries: list[str], host: str, trusted: bool) -> None:
    assert TrustedPeers.parse(entries).trusts(host) is trusted


@pytest.mark.parametrize(
    "entry, host",
    [
        ("10.0.0.0/8", "::ffff:10.1.2.3"),
        ("::ffff:10.0.0.0/104", "10.1.2.3"),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::/0", "::ffff:10.1.2.3"),
    ],
)
def test_trust_treats_mapped_address_as_ipv4(entry: str, host: str) -> None:
    assert TrustedPeers.parse([entry]).trusts(host)


def test_trust_keeps_narrow_ipv6_networks_apart_from_mapped_ones() -> None:
    peers = TrustedPeers.parse(["2001:db8::/100"])
    assert peers.trusts("2001:db8::1")
    assert not peers.trusts("0.0.0.1")


@pytest.mark.parametrize("host", [None, ""])
def test_trust_includes_unix_peers(host: str | None) -> None:
    assert TrustedPeers.parse([]).trusts(host)


def test_trust_remembers_bounded_number_of_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarded, "_CACHED_HOSTS", 2)
    peers = TrustedPeers.parse(["10.0.0.0/8"])
    for host in ("10.0.0.1", "10.0.0.1", "11.0.0.1", "10.0.0.2", "11.0.0.1"):
        assert peers.trusts(host) is host.startswith("10.")
        assert len(peers._cache) <= 2


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "localhost", "", "10.0.0", "::1/129"])
def test_trust_refuses_bad_entry_by_name_of_setting(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^proxy_allow_ips: {entry!r} is not allowed") as raised:
        TrustedPeers.parse(["127.0.0.1", entry], "proxy_allow_ips")
    assert "\n" not in str(raised.value)


PROXIES = TrustedPeers.parse(["10.0.0.0/8", "::1"])
EVERYONE = TrustedPeers.parse(["*"])
PROXY = ("10.0.0.1", 50000)


@pytest.mark.parametrize(
    "values, client",
    [
        ([b"203.0.113.9"], ("203.0.113.9", 0)),
        ([b"198.51.100.1, 203.0.113.9"], ("203.0.113.9", 0)),
        ([b"198.51.100.1, 203.0.113.9, 10.0.0.2,10.0.0.1"], ("203.0.113.9", 0)),
        ([b"198.51.100.1", b"203.0.113.9", b"10.0.0.1"], ("203.0.113.9", 0)),
        ([b"10.0.0.3, 10.0.0.2"], ("10.0.0.3", 0)),
        ([b"198.51.100.1, unknown, 10.0.0.2"], ("10.0.0.2", 0)),
        ([b"198.51.100.1, , 10.0.0.2,"], ("198.51.100.1", 0)),
        ([b"198.51.100.1, unknown"], None),
        ([b""], None),
        ([b" \t, ,"], None),
    ],
)
def test_client_is_rightmost_hop_that_is_not_trusted(values: list[bytes], client: tuple[str, int] | None) -> None:
    assert PROXIES.client_from(values, PROXY) == client


@pytest.mark.parametrize(
    "values, client",
    [
        ([b"198.51.100.1, 203.0.113.9, 10.0.0.2"], ("198.51.100.1", 0)),
        ([b"198.51.100.1", b"203.0.113.9"], ("198.51.100.1", 0)),
        ([b"unknown, 203.0.113.9"], ("203.0.113.9", 0)),
    ],
)
def test_client_is_leftmost_hop_where_everyone_is_trusted(values: list[bytes], client: tuple[str, int]) -> None:
    assert EVERYONE.client_from(values, PROXY) == client


@pytest.mark.parametrize(
    "hop, client",
    [
        (b"203.0.113.9:8080", ("203.0.113.9", 8080)),
        (b"203.0.113.9:0", ("203.0.113.9", 0)),
        (b"203.0.113.9:65535", ("203.0.113.9", 65535)),
        (b"2001:db8::1", ("2001:db8::1", 0)),
        (b"2001:DB8:0:0::1", ("2001:db8::1", 0)),
        (b"[2001:db8::1]", ("2001:db8::1", 0)),
        (b"[2001:db8::1]:443", ("2001:db8::1", 443)),
        (b"::ffff:192.0.2.1", ("::ffff:192.0.2.1", 0)),
    ],
)
def test_client_hop_may_carry_port(hop: bytes, client: tuple[str, int]) -> None:
    assert PROXIES.client_from([hop], PROXY) == client


@pytest.mark.parametrize(
    "hop",
    [
        b"unknown",
        b"_hidden",
        b"example.com",
        b"203.0.113",
        b"203.0.113.009",
        b"203.0.113.9:",
        b"203.0.113.9:65536",
        b"203.0.113.9:-1",
        b"203.0.113.9:1x",
        b"203.0.113.9:" + b"9" * 5000,
        b"[203.0.113.9]",
        b"[2001:db8::1",
        b"[2001:db8::1]443",
        b"[2001:db8::1]:",
        b"[2001:db8::1]:x",
        b"2001:db8::1::2",
        b"fe80::1%eth0",
        b"203.0.113.9\x00",
        b"\xff\xfe",
        b'"203.0.113.9"',
        b"203.0.113.9 198.51.100.1",
    ],
)
def test_client_ignores_hop_that_is_no_address(hop: bytes) -> None:
    assert PROXIES.client_from([hop], PROXY) is None
    assert PROXIES.client_from([b"198.51.100.1, " + hop + b", 10.0.0.7"], PROXY) == ("10.0.0.7", 0)


def test_client_is_untrusted_peer_whatever_it_claims() -> None:
    assert PROXIES.client_from([b"198.51.100.1"], ("203.0.113.9", 50000)) is None


def test_client_behind_unix_socket_is_what_peer_says() -> None:
    assert PROXIES.client_from([b"198.51.100.1"], None) == ("198.51.100.1", 0)


@pytest.mark.parametrize(
    "headers, scheme",
    [
        ([], None),
        ([(b"host", b"example.com")], None),
        ([(b"x-forwarded-proto", b"https")], "https"),
        ([(b"x-forwarded-proto", b"HTTPS")], "https"),
        ([(b"x-forwarded-proto", b"http")], "http"),
        ([(b"x-forwarded-proto", b"gopher")], "http"),
        ([(b"x-forwarded-proto", b"wss")], "https"),
        ([(b"x-forwarded-proto", b"ws")], "http"),
        ([(b"x-forwarded-ssl", b"on")], "https"),
        ([(b"x-forwarded-ssl", b"wss")], "http"),
        ([(b"x-forwarded-protocol", b"ssl"), (b"x-forwarded-proto", b"https")], "https"),
        ([(b"x-forwarded-ssl", b"off"), (b"x-forwarded-proto", b"http")], "http"),
    ],
)
def test_scheme_is_what_trusted_headers_say(headers: list[tuple[bytes, bytes]], scheme: str | None) -> None:
    assert scheme_from(headers, GUNICORN_DEFAULT) == scheme


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-forwarded-ssl", b"on"), (b"x-forwarded-proto", b"http")],
        [(b"x-forwarded-ssl", b"off"), (b"x-forwarded-proto", b"https")],
        [(b"x-forwarded-proto", b"https"), (b"x-forwarded-proto", b"http")],
    ],
)
def test_scheme_refuses_headers_that_contradict(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ForwardedError, match="x-forwarded-proto contradicts another header"):
        scheme_from(headers, GUNICORN_DEFAULT)


@pytest.mark.parametrize("setting", [{"X-Scheme": 1}, {1: "https"}, {"X-Scheme": "\u4e2d"}])
def test_secure_schemes_refuses_what_is_no_header(setting: dict[Any, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"^secure_scheme_headers: .* is not allowed; use a dict"):
        secure_schemes(setting)
