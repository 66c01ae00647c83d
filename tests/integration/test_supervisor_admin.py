"""The admin endpoint of a real service: probes, and counters that never fall."""

from __future__ import annotations

import json
import os
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from outrider_testing import releases
from outrider_testing.http_client import HTTPConnection, can_connect, encode_request, fetch
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.serving import Supervise

WORKERS = 2
TOKEN = "0123456789abcdef-0123456789abcdef"
Counters = dict[tuple[str, frozenset[tuple[str, str]]], float]


def counters(server: OutriderProcess) -> Counters:
    """All counters, sums and buckets but the workers' own."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(server.ask_admin("/metrics").text)
        if family.type in ("counter", "histogram", "summary")
        for sample in family.samples
        if "pid" not in sample.labels
    }


def requests(found: Counters) -> float:
    labels = {"http_request_method": "GET", "http_response_status_class": "2xx"}
    return found.get(("outrider_requests_total", frozenset(labels.items())), 0.0)


@pytest.fixture
def server(supervise: Supervise) -> OutriderProcess:
    return supervise("--admin-bind", "127.0.0.1:0", "--no-canary", workers=WORKERS)


def test_counters_survive_kills_reloads_and_upgrades(server: OutriderProcess) -> None:
    before = counters(server)
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            assert server.get("/").status == 200
        sent += count

    def look() -> Counters:
        nonlocal before
        found = counters(server)
        fallen = {name: (value, found.get(name)) for name, value in before.items() if found.get(name, -1.0) < value}
        assert not fallen
        before = found
        return found

    first = requests(before)
    send(20)
    assert requests(look()) == first + sent
    for _ in range(2):
        victim = server.workers()[0]
        os.kill(victim, signal.SIGKILL)
        server.wait_until_gone(victim)  # which takes a while on a busy machine, and it is not to be killed twice
        server.wait_until_settled(WORKERS)
        send(10)
        assert requests(look()) == first + sent
    server.reload("--no-canary").check()
    send(10)
    server.upgrade().check()
    server.wait_until_settled(WORKERS, generation=2)
    send(10)
    found = look()
    assert requests(found) == first + sent
    assert found["outrider_worker_restarts_total", frozenset({("cause", "crash")})] == 2.0
    assert found["outrider_reloads_total", frozenset({("outcome", "committed")})] == 1.0
    points = server.ask_admin("/api/history").json()["pool"]
    assert points[0]["at"] < points[-1]["at"]
    assert len({point["at"] for point in points}) == len(points)


def test_service_is_ready_until_it_stops_and_event_streams_end_with_it(server: OutriderProcess) -> None:
    assert server.ask_admin("/livez").body == b"ok\n"
    assert server.ask_admin("/readyz").status == 200
    address = server.admin_address
    with HTTPConnection(address) as reader, server.connect() as held:
        reader.send(encode_request("GET", "/api/events"))
        assert reader.read_head().status == 200
        held.send(b"GET / HTTP/1.1\r\n")  # and no more: the workers wait for it as they drain
        server.until(lambda: sum(row["connections"] or 0 for row in server.worker_rows()), what="a connection")
        os.kill(server.pid, signal.SIGTERM)
        server.until(lambda: fetch(address, "/readyz").status == 503, what="503 of a service that stops")
        assert fetch(address, "/readyz").body == b"stopping\n"
        held.close()
        server.until(lambda: not can_connect(address), what="the end")
        assert b'"text": "stopping: workers finish what they hold"' in reader.read_to_end()


def test_reload_takes_up_a_token_and_a_broken_one_changes_nothing(server: OutriderProcess) -> None:
    old = server.admin_address
    releases.configure(server.directory, 'admin_token_file = "token"')
    assert "admin_token_file is 'token', which can't be read" in server.reload().check(1)
    assert server.ask_admin("/metrics").status == 200
    (server.directory / "token").write_text(TOKEN)
    server.reload().check()
    assert server.admin_address == old
    assert server.ask_admin("/metrics").status == 401
    assert server.ask_admin("/metrics", TOKEN).status == 200
    scaled = server.ask_admin("/api/scale", TOKEN, b'{"workers": 3}')
    assert json.loads(scaled.body.splitlines()[-1])["ok"]
    assert server.status()["target"] == 3
