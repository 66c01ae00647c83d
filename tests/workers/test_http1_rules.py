"""What is demanded of a request head beyond what the parser checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from outrider import http1_rules as rules
from outrider.http1_rules import BadRequest


@pytest.fixture(autouse=True)
def _empty_caches() -> Iterator[None]:
    rules.known_targets.clear()
    rules.known_hosts.clear()
    yield
    rules.known_targets.clear()
    rules.known_hosts.clear()


def refused(call: Callable[[], object]) -> int:
    """The status that a rule refuses with."""
    with pytest.raises(BadRequest) as caught:
        call()
    assert caught.value.reason == str(caught.value)
    return caught.value.status


# -- targets


@pytest.mark.parametrize(
    "url, target",
    [
        (b"/", ("/", b"/", b"", None)),
        (b"/a/b?c=d&e=%20", ("/a/b", b"/a/b", b"c=d&e=%20", None)),
        (b"/a?b?c", ("/a", b"/a", b"b?c", None)),
        (b"/a?", ("/a", b"/a", b"", None)),
        (b"//a//b/../c", ("//a//b/../c", b"//a//b/../c", b"", None)),
        (b"/a%20b%2Fc", ("/a b/c", b"/a%20b%2Fc", b"", None)),
        (b"/%E2%82%AC", ("/€", b"/%E2%82%AC", b"", None)),
        (b"/%ff", ("/\ufffd", b"/%ff", b"", None)),
        (b"/%zz%", ("/%zz%", b"/%zz%", b"", None)),
        (b"/a+b", ("/a+b", b"/a+b", b"", None)),
        (b"/%3Fa", ("/?a", b"/%3Fa", b"", None)),
        (b"http://b", ("/", b"/", b"", b"b")),
        (b"http://b/", ("/", b"/", b"", b"b")),
        (b"HTTPS://b:8000/c%20d?e", ("/c d", b"/c%20d", b"e", b"b:8000")),
        (b"http://b?c", ("/", b"/", b"c", b"b")),
    ],
)
def test_target_is_split(url: bytes, target: rules.Target) -> None:
    assert rules.split_target(url, b"GET") == target
    assert rules.known_targets[url] == target


@pytest.mark.parametrize(
    "url",
    [b"/a#b", b"#", b"a", b"a/b", b"ftp://b/c", b"http:/b", b"http:///b", b"http://u@b/c", b"http://u:p@b/", b"*a"],
)
def test_unusable_target_is_refused(url: bytes) -> None:
    assert refused(lambda: rules.split_target(url, b"GET")) == 400
    assert rules.known_targets == {}


def test_asterisk_is_a_target_of_options_only() -> None:
    assert rules.split_target(b"*", b"OPTIONS") == ("*", b"*", b"", None)
    assert refused(lambda: rules.split_target(b"*", b"GET")) == 400


def test_target_of_connect_is_refused() -> None:
    assert refused(lambda: rules.split_target(b"a:443", b"CONNECT")) == 501


def test_targets_are_remembered_within_bounds() -> None:
    for number in range(rules._CACHED_TARGETS + 10):
        rules.split_target(b"/%d" % number, b"GET")
    assert 0 < len(rules.known_targets) <= rules._CACHED_TARGETS
    rules.known_targets.clear()
    rules.split_target(b"/" + b"x" * rules._CACHED_SIZE, b"GET")
    assert rules.known_targets == {}


# -- Host


@pytest.mark.parametrize(
    "host",
    [
        b"a",
        b"a.example",
        b"a.example.",
        b"A-1_b~c",
        b"192.0.2.1",
        b"a:80",
        b"a:",
        b"[::1]",
        b"[2001:db8::1]:8000",
        b"[fe80::1%25eth0]:80",
        b"[v1.a:b]",
        b"%C3%A4",
        b"!$&'()*+,;=",
    ],
)
def test_host_is_accepted(host: bytes) -> None:
    rules.check_host(host)
    assert host in rules.known_hosts


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b" ",
        b"a b",
        b"u@a",
        b"u:p@a",
        b":80",
        b"a:b",
        b"a:80:80",
        b"a/b",
        b"a?b",
        b"a#b",
        b"a\\b",
        b"::1",
        b"[::1",
        b"[]",
        b"[::1]a",
        b"[g::1]",
        b"%zz",
        b"\xe4",
        b"<a>",
        b"a\n",
        b'"a"',
    ],
)
def test_unusable_host_is_refused(host: bytes) -> None:
    assert refused(lambda: rules.check_host(host)) == 400
    assert host not in rules.known_hosts


def test_hosts_are_remembered_within_bounds() -> None:
    for number in range(rules._CACHED_TARGETS + 10):
        rules.check_host(b"h%d" % number)
    assert 0 < len(rules.known_hosts) <= rules._CACHED_TARGETS
    rules.known_hosts.clear()
    rules.check_host(b"x" * (rules._CACHED_SIZE + 1))
    assert rules.known_hosts == set()


# -- fields


@pytest.mark.parametrize("values", [[b"chunked"], [b"Chunked"], [b" chunked\t"]])
def test_chunked_is_accepted(values: list[bytes]) -> None:
    rules.check_transfer_encoding([(b"transfer-encoding", value) for value in values], "1.1")


@pytest.mark.parametrize(
    "values, version, status",
    [
        ([b"chunked"], "1.0", 400),
        ([b"identity"], "1.1", 400),
        ([b"chunked, gzip"], "1.1", 400),
        ([b"chunked", b"gzip"], "1.1", 400),
        ([b"chunked, chunked"], "1.1", 400),
        ([b"chunked", b"chunked"], "1.1", 400),
        ([b"xchunked"], "1.1", 400),
        ([b""], "1.1", 400),
        ([b"gzip, chunked"], "1.1", 501),
        ([b"gzip", b"chunked"], "1.1", 501),
    ],
)
def test_other_transfer_codings_are_refused(values: list[bytes], version: str, status: int) -> None:
    headers = [(b"host", b"a"), *((b"transfer-encoding", value) for value in values)]
    assert refused(lambda: rules.check_transfer_encoding(headers, version)) == status


@pytest.mark.parametrize(
    "values, closes",
    [
        ([b"close"], True),
        ([b"keep-alive, Close"], True),
        ([b"close\t", b"keep-alive"], True),
        ([b"keep-alive"], False),
        ([b"closed"], False),
        ([], False),
    ],
)
def test_close_is_found_among_connection_options(values: list[bytes], closes: bool) -> None:
    assert rules.asks_to_close([(b"x", b"close"), *((b"connection", value) for value in values)]) is closes


def test_only_100_continue_may_be_expected() -> None:
    rules.check_expectation(b"100-Continue")
    assert refused(lambda: rules.check_expectation(b"100")) == 417


@pytest.mark.parametrize("name", [b"host", b"content-type"])
def test_second_of_a_singleton_is_refused(name: bytes) -> None:
    rules.check_singletons([(name, b"a"), (b"x", b"a"), (b"x", b"b")])
    assert refused(lambda: rules.check_singletons([(name, b"a"), (b"x", b"a"), (name, b"a")])) == 400


@pytest.mark.parametrize("limit, allowed", [(0, True), (8, True), (7, False)])
def test_size_of_a_field_counts_its_whole_line(limit: int, allowed: bool) -> None:
    headers = [(b"a", b"b"), (b"x", b"yyy")]
    if allowed:
        rules.check_field_sizes(headers, limit)
    else:
        assert refused(lambda: rules.check_field_sizes(headers, limit)) == 431


# -- header_map

UNDERSCORED = [(b"host", b"a"), (b"script_name", b"/x"), (b"x_y", b"1")]
FORWARDER = frozenset((b"script_name",))
NOBODY: frozenset[bytes] = frozenset()


@pytest.mark.parametrize(
    "policy, forwarder, kept",
    [
        ("dangerous", NOBODY, 3),
        ("drop", NOBODY, 1),
        ("drop", FORWARDER, 2),
        ("drop", frozenset((b"*",)), 3),
        ("refuse", frozenset((b"*",)), 3),
    ],
)
def test_header_map_decides_about_underscores(policy: str, forwarder: frozenset[bytes], kept: int) -> None:
    assert rules.apply_header_map(UNDERSCORED, policy, forwarder) == UNDERSCORED[:kept]


@pytest.mark.parametrize("forwarder", [NOBODY, FORWARDER])
def test_header_map_refuses_underscores(forwarder: frozenset[bytes]) -> None:
    assert rules.apply_header_map(UNDERSCORED[:1], "refuse", forwarder) == UNDERSCORED[:1]
    assert refused(lambda: rules.apply_header_map(UNDERSCORED, "refuse", forwarder)) == 400
