"""What a hostile client of HTTP/2 can make the server do, and for how long (RFC 9113 §10.5)."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hpack import Encoder
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame, PingFrame, PriorityFrame, SettingsFrame

from outrider.forwarded import TrustedPeers
from outrider.http2_engine import ANSWERED_EXCESS, MOST_RESETS, ErrorCode
from outrider.http2_guard import BURST, LEAST_WINDOW_UPDATE, LOST_STREAM, RATE, Patience
from outrider_testing.fakes import DrivenApp, ManualLoop, constant, make_context, make_runtime
from outrider_testing.http2_client import GET, POST, HTTP2Client

if TYPE_CHECKING:
    from hyperframe.frame import Frame

EMPTY_BLOCK_LIMIT = 100


def assert_cut_off(client: HTTP2Client, code: ErrorCode = ErrorCode.ENHANCE_YOUR_CALM) -> None:
    assert [goaway.error_code for goaway in client.goaways] == [code]
    assert client.is_closed()
    assert client.log.messages("warning")[-1].startswith("Closed the connection of 192.0.2.7:54321: ")


def flood(client: HTTP2Client, frame: bytes, most: int) -> int:
    """Send a frame again and again until the server closes; returns how often that was."""
    for count in range(most):
        if client.is_closed():
            return count
        client.transport.feed(frame)
        if not count % 50:
            client.loop.run_ready()
    client.loop.run_ready()
    client._read()
    return most


# -- floods


def test_patience_comes_back_with_time() -> None:
    patience = Patience(0.0)
    patience.spend(BURST, 0.0)
    assert not patience.is_over
    patience.spend(int(RATE), 1.0)
    assert not patience.is_over
    patience.spend(1, 1.0)
    assert patience.is_over


def test_patience_comes_back_with_useful_responses_but_not_beyond_its_measure() -> None:
    patience = Patience(0.0)
    patience.earn()
    patience.spend(BURST, 0.0)
    patience.earn()
    patience.spend(LOST_STREAM, 0.0)
    assert not patience.is_over
    patience.spend(1, 0.0)
    assert patience.is_over


@pytest.mark.parametrize(
    "frame",
    [PingFrame(0, b"12345678"), SettingsFrame(0), SettingsFrame(0, {4: 1000})],
    ids=["ping", "empty settings", "settings"],
)
def test_flood_of_control_frames_closes_the_connection(loop: ManualLoop, frame: Frame) -> None:
    client = HTTP2Client.of(loop)
    assert flood(client, frame.serialize(), 2 * BURST) < 1.1 * BURST
    client._read()
    assert_cut_off(client)


def test_flood_of_small_window_updates_closes_the_connection(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    frame = b"\0\0\4\x08\0\0\0\0\0" + (LEAST_WINDOW_UPDATE - 1).to_bytes(4, "big")
    assert flood(client, frame, 2 * BURST) < 1.1 * BURST


def test_window_updates_of_a_fair_size_are_no_flood(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    frame = b"\0\0\4\x08\0\0\0\0\0" + LEAST_WINDOW_UPDATE.to_bytes(4, "big")
    assert flood(client, frame, 2 * BURST) == 2 * BURST
    assert not client.is_closed()


def test_flood_of_empty_data_frames_closes_the_connection(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    assert flood(client, DataFrame(stream).serialize(), 2 * BURST) < 1.1 * BURST


def test_priorities_are_ignored(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    frame = PriorityFrame(1, depends_on=0, stream_weight=10)
    client.feed(frame.serialize())
    assert client.response(client.request((*GET, (b"priority", b"u=0, i")))).status == 200


def test_rapid_resets_close_the_connection(loop: ManualLoop) -> None:
    """CVE-2023-44487: streams that are opened and cancelled do not count as concurrent."""
    client = HTTP2Client.of(loop)
    opened = 0
    while not client.is_closed():
        stream = client.h2.get_next_available_stream_id()
        client.h2.send_headers(stream, GET, end_stream=True)
        client.exchange()
        client.h2.reset_stream(stream)
        client.exchange()
        opened += 1
        assert opened < BURST
    assert_cut_off(client)
    assert opened <= BURST // LOST_STREAM + 1
    assert len(client.calls) == opened


def test_cancelled_requests_among_useful_ones_are_no_attack(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    for _ in range(BURST // LOST_STREAM + 50):
        client.request()
        client.calls[-1].respond()
        client.exchange()
        client.reset(client.request())
    assert not client.is_closed()


def test_streams_that_the_server_must_reset_count_as_well(loop: ManualLoop) -> None:
    """CVE-2025-8671: it is the server that resets, and the requests stay."""
    client = HTTP2Client.of(loop)
    opened = 0
    while not client.is_closed():
        stream = client.request(more=True)
        client.feed(b"\0\0\4\x08\0" + stream.to_bytes(4, "big") + b"\0\0\0\0")  # a window update of nothing
        opened += 1
        assert opened < BURST
    assert len(client.calls) <= BURST // LOST_STREAM + 1


def test_malformed_requests_count_as_well(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.h2.config.validate_outbound_headers = False
    client.h2.config.normalize_outbound_headers = False
    opened = 0
    while not client.is_closed():
        client.request((*GET, (b"Upper", b"x")))
        opened += 1
        assert opened < BURST


@pytest.mark.parametrize("config, lasts", [({"limit_request_line": 1}, False), ({"limit_concurrency": 1}, True)])
def test_refused_requests_count_as_well_if_it_is_the_client_who_is_to_blame(
    loop: ManualLoop, config: dict[str, Any], lasts: bool
) -> None:
    client = HTTP2Client.of(loop, **config)
    for _ in range(BURST // LOST_STREAM + 10):
        if not client.is_closed():
            client.request()
    assert client.is_closed() is not lasts


@pytest.mark.parametrize(
    "config, ends",
    [({}, False), ({"trusted_proxies": TrustedPeers.parse(["*"])}, True), ({"proxy_protocol": "v2"}, True)],
    ids=["named", "anybody", "PROXY header"],
)
def test_proxy_does_not_lose_its_connection_for_what_one_of_its_clients_does(
    loop: ManualLoop, config: dict[str, Any], ends: bool
) -> None:
    """HAProxy also answers each piece of an event stream with window updates as small as that."""
    client = HTTP2Client(loop, make_context(make_runtime(loop, DrivenApp(loop), **config), trusted_proxy=True))
    client.request()
    for _ in range(MOST_RESETS[0] + 500):
        if not client.goaways:
            client.reset(client.request())
    assert bool(client.goaways) is ends


def test_client_that_does_not_read_can_not_make_the_answers_pile_up(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.connection.pause_writing()
    flood(client, PingFrame(0, b"12345678").serialize(), 5000)
    assert client.is_closed()


# -- concurrent streams


def test_more_streams_than_allowed_are_not_served(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, http2_max_concurrent_streams=3)
    client.h2.remote_settings[3] = 100
    client.h2.remote_settings.acknowledge()
    for _ in range(4):
        client.request()
    assert len(client.calls) == 3


# -- header lists


@pytest.mark.parametrize(
    "config, fields, status",
    [
        ({"limit_request_line": 100}, [(b":path", b"/" + b"x" * 86)], 200),
        ({"limit_request_line": 100}, [(b":path", b"/" + b"x" * 87)], 414),
        ({"limit_request_line": 0}, [(b":path", b"/" + b"x" * 8000)], 200),
        ({"limit_request_field_size": 100}, [(b"x", b"y" * 95)], 200),
        ({"limit_request_field_size": 100}, [(b"x", b"y" * 96)], 431),
        ({"limit_request_fields": 5}, [(b"x%d" % each, b"y") for each in range(5)], 200),
        ({"limit_request_fields": 5}, [(b"x%d" % each, b"y") for each in range(6)], 431),
        ({"limit_request_fields": 5}, [(b"x", b"y")] * 6, 431),
        ({"http2_max_header_list_size": 1000}, [(b"x", b"y" * 800)], 200),
        ({"http2_max_header_list_size": 1000}, [(b"x", b"y" * 1000)], 431),
        ({"http2_max_header_list_size": 1000}, [(b"x%d" % each, b"y") for each in range(30)], 431),
        ({"http2_max_header_list_size": 0, "limit_request_field_size": 0}, [(b"x", b"y" * 60_000)] * 3, 200),
    ],
)
def test_request_is_held_to_its_limits(
    loop: ManualLoop, config: dict[str, Any], fields: list[tuple[bytes, bytes]], status: int
) -> None:
    client = HTTP2Client.of(loop, constant(), **config)
    client.h2.config.validate_outbound_headers = False
    given = dict(GET) | dict(fields)
    repeats = fields if len(dict(fields)) < len(fields) else []
    client.request([*given.items(), *repeats[1:]])
    assert client.response().status == status
    assert not client.is_closed()


def test_header_list_far_beyond_its_limit_closes_the_connection(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, http2_max_header_list_size=1000)
    client.request((*GET, (b"x", b"y" * 1000 * ANSWERED_EXCESS)))
    assert_cut_off(client)
    assert client.calls == []


def test_header_bomb_is_not_unpacked(loop: ManualLoop) -> None:
    """One byte on the wire is 4 KB of header list, again and again (RFC 7541 §7.3)."""
    client = HTTP2Client.of(loop)
    encoder = Encoder()
    block = encoder.encode([*GET, (b"x", b"y" * 4000)])
    client.feed(HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]).serialize())
    bomb = encoder.encode(GET) + b"\xbe" * 16000
    frame = HeadersFrame(3, bomb, flags=["END_HEADERS", "END_STREAM"]).serialize()
    tracemalloc.start()
    try:
        client.feed(frame)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    assert_cut_off(client)


def test_flood_of_continuations_closes_the_connection(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.feed(HeadersFrame(1, Encoder().encode(GET), flags=["END_STREAM"]).serialize())
    assert flood(client, ContinuationFrame(1, b"").serialize(), 1000) < EMPTY_BLOCK_LIMIT
    client._read()
    assert_cut_off(client)


def test_table_size_update_beyond_the_limit_is_an_error(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.feed(HeadersFrame(1, b"\x3f\xe2\x1f" + Encoder().encode(GET), flags=["END_HEADERS"]).serialize())
    assert client.is_closed()
    assert client.calls == []


# -- connections without requests


def test_connection_without_a_request_is_closed_after_header_timeout(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, header_timeout=10)
    client.sweep(9)
    assert not client.is_closed()
    client.sweep(1.5)
    assert client.is_closed()
    assert [goaway.error_code for goaway in client.goaways] == [ErrorCode.NO_ERROR]


def test_header_block_that_never_ends_is_no_request(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, header_timeout=10)
    client.feed(HeadersFrame(1, Encoder().encode(GET), flags=["END_STREAM"]).serialize())
    client.sweep(10.5)
    assert client.is_closed()


def test_idle_connection_is_closed_after_keepalive(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(), keepalive=5)
    client.request()
    client.sweep(4)
    client.ping()
    assert not client.is_closed()
    client.sweep(1.5)
    assert client.is_closed()
    assert [goaway.error_code for goaway in client.goaways] == [ErrorCode.NO_ERROR]


def test_connection_in_use_is_not_closed(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, keepalive=5)
    client.request()
    client.sweep(1000)
    assert not client.is_closed()


def test_connection_without_keepalive_closes_after_its_request(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant(), keepalive=0)
    client.request()
    assert client.response().status == 200
    assert client.is_closed()
    assert [goaway.error_code for goaway in client.goaways] == [ErrorCode.NO_ERROR]


def test_connection_without_keepalive_serves_others_beside_a_request(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, keepalive=0)
    client.request()
    client.request()
    client.calls[0].respond()
    client.exchange()
    client.request()
    assert len(client.calls) == 3
    assert client.goaways == []


def test_frames_on_a_stream_that_the_client_has_reset_close_the_connection(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    client.reset(stream)
    frame = DataFrame(stream, b"x").serialize()
    assert flood(client, frame, BURST) < 1.1 * BURST // LOST_STREAM


def test_flood_of_resets_of_a_stream_that_has_ended_closes_the_connection(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop, constant())
    stream = client.request()
    frame = b"\0\0\4\3\0" + stream.to_bytes(4, "big") + b"\0\0\0\x08"
    assert flood(client, frame, 3 * BURST) < 1.1 * BURST


def test_malformed_request_is_told_in_the_log(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    client.h2.config.validate_outbound_headers = False
    client.request((*GET, (b"host", b"other")))
    (message,) = client.log.messages("warning")
    assert message.startswith("Refused a request from 192.0.2.7:54321: Host and :authority differ")


def test_app_is_told_when_a_flood_closes_its_connection(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request(POST, more=True)
    flood(client, PingFrame(0, b"12345678").serialize(), 2 * BURST)
    assert client.call.receive() == {"type": "http.disconnect"}
    client._read()
    assert [goaway.last_stream_id for goaway in client.goaways] == [stream]


def test_flood_of_priority_updates_closes_the_connection(loop: ManualLoop) -> None:
    client = HTTP2Client.of(loop)
    stream = client.request()
    frame = b"\0\0\7\x10\0\0\0\0\0" + stream.to_bytes(4, "big") + b"u=1"
    assert flood(client, frame, 2 * BURST) < 1.1 * BURST


def test_patience_does_not_grow_with_time() -> None:
    patience = Patience(0.0)
    patience.spend(BURST, 1000.0)
    assert not patience.is_over
    patience.spend(1, 1000.0)
    assert patience.is_over
