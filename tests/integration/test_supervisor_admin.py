"""The admin endpoint of a real service: probes, and counters that never fall."""

from __future__ import annotations

import json
import os
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from outrider_testing import releases
from outrider_testing.http_client import Address, HTTPConnection, Response, can_connect
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.serving import Supervise

WORKERS = 2
TOKEN = "0123456789abcdef-0123456789abcdef"
Counters = dict[tuple[str, frozenset[tuple[str, str]]], float]


def admin_of(server: OutriderProcess) -> Address:
    """Where the admin endpoint is."""
    (address,) = server.status()["admin_addresses"]
    host, _, port = address.removeprefix("http://").rpartition(":")
    return host, int(port)


def encode(path: str, token: str = "", body: bytes = b"") -> bytes:
    """A request, a POST with a body."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def fetch(address: Address, path: str, token: str = "", body: bytes = b"") -> Response:
    with HTTPConnection(address) as connection:
        connection.send(encode(path, token, body))
        return connection.read_response()


def ask(server: OutriderProcess, path: str, token: str = "", body: bytes = b"") -> Response:
    return fetch(admin_of(server), path, token, body)


def counters(server: OutriderProcess, *, of_pool: bool = True) -> Counters:
    """All counters, sums and buckets, or those without the workers' own."""
    text = ask(server, "/metrics").body.decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        if family.type in ("counter", "histogram", "summary")
        for sample in family.samples
        if not (of_pool and "pid" in sample.labels)
    }


def requests(found: Counters, status_class: str = "2xx") -> float:
    labels = {"http_request_method": "GET", "http_response_status_class": status_class}
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
        os.kill(server.workers()[0], signal.SIGKILL)
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
    points = json.loads(ask(server, "/api/history").body)["pool"]
    assert points[0]["at"] < points[-1]["at"]
    assert len({point["at"] for point in points}) == len(points)


def test_service_is_ready_until_it_stops_and_event_streams_end_with_it(server: OutriderProcess) -> None:
    assert ask(server, "/livez").body == b"ok\n"
    assert ask(server, "/readyz").status == 200
    address = admin_of(server)
    with HTTPConnection(address) as reader, server.connect() as held:
        reader.send(encode("/api/events"))
        assert reader.read_head().status == 200
        held.send(b"GET / HTTP/1.1\r\n")  # and no more: the workers wait for it as they drain
        server.until(lambda: sum(row["connections"] or 0 for row in server.worker_rows()), what="a connection")
        os.kill(server.pid, signal.SIGTERM)
        server.until(lambda: fetch(address, "/readyz").status == 503, what="503 of a service that stops")
        assert fetch(address, "/readyz").body == b"stopping\n"
        held.close()
        server.until(lambda: not can_connect(address), what="the end")
        assert b'"text": "stopping: workers finish what they hold"' in reader.read_to_end()


def test_reload_changes_address_and_token_and_a_broken_one_changes_nothing(server: OutriderProcess) -> None:
    old = admin_of(server)
    releases.configure(server.directory, 'admin_token_file = "token"')
    assert "admin_token_file is 'token', which can't be read" in server.reload().check(1)
    assert ask(server, "/metrics").status == 200
    (server.directory / "token").write_text(TOKEN)
    server.reload().check()
    assert admin_of(server) == old
    assert ask(server, "/metrics").status == 401
    assert ask(server, "/metrics", TOKEN).status == 200
    scaled = ask(server, "/api/scale", TOKEN, b'{"workers": 3}')
    assert json.loads(scaled.body.splitlines()[-1])["ok"]
    assert server.status()["target"] == 3
