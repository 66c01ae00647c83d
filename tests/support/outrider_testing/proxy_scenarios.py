"""What must hold behind every proxy; each of tests/deploy/test_PROXY.py gives the stage to play it on."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect

from outrider_testing import releases
from outrider_testing.http_client import HTTPConnection, TruncatedResponse, encode_request
from outrider_testing.load import Load, Mix, Report
from outrider_testing.load_clients import (
    HalfSentPostClient,
    KeepAliveClient,
    KeepAlivePostClient,
    NewConnectionClient,
    Pace,
    SilentClient,
    SlowStreamClient,
)
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.proxies import APPLICATION, CLIENT, HTTP, HTTPS, NAME, Place, ProxyProcess, release
from outrider_testing.waiting import until

WORKERS = 2
RELOADS = 3
REQUESTS = 500
MIX: Mix = {
    KeepAliveClient: 60,
    KeepAlivePostClient: 40,
    NewConnectionClient: 20,
    SilentClient: 10,
    HalfSentPostClient: 10,
    SlowStreamClient: 8,
}
PACE = Pace(silence=(0.2, 0.5), stream=(0.4, 0.6))
PIECE = b"0123456789abcdef" * 4096  # 64 KiB
PIECES = 128
SPOOFED = {
    "X-Forwarded-For": "203.0.113.66",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Protocol": "ssl",
    "X-Forwarded-Ssl": "off",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "666",
    "X-Forwarded-Prefix": "/evil",
    "X-Real-IP": "203.0.113.66",
    "Forwarded": "for=203.0.113.66;host=evil.example",
}


@dataclass(frozen=True)
class Stage:
    """A proxy in front of a service. `upstream_version` is that of HTTP between them."""

    place: Place
    service: OutriderProcess
    proxy: ProxyProcess
    upstream_version: str = "1.1"

    @contextlib.contextmanager
    def client(self, *, http2: bool = False) -> Iterator[httpx.Client]:
        """A client at `CLIENT`, which speaks HTTP/1.1 or HTTP/2."""
        context = self.place.client_context("h2" if http2 else "http/1.1")
        transport = httpx.HTTPTransport(verify=context, http2=http2, local_address=CLIENT)
        with httpx.Client(
            transport=transport, base_url=f"https://{self.place.address}", headers={"Host": NAME}, timeout=20.0
        ) as client:
            client.event_hooks = {"request": [_name_server]}
            yield client

    def websocket(self, *messages: str | bytes) -> dict[str, Any]:
        """Open a WebSocket from `CLIENT`, with `SPOOFED`; have each message sent back; return what the app saw."""
        return asyncio.run(self._converse(messages))

    async def _converse(self, messages: Sequence[str | bytes]) -> dict[str, Any]:
        # In one thread: one that is read by one thread and written by another breaks TLS now and then (Python < 3.13).
        sock = socket.create_connection((self.place.address, HTTPS), 20.0, source_address=(CLIENT, 0))
        context = self.place.client_context()
        async with (
            asyncio.timeout(20.0),
            connect(f"wss://{NAME}/ws", sock=sock, ssl=context, additional_headers=SPOOFED) as websocket,
        ):
            seen: dict[str, Any] = json.loads(await websocket.recv())
            for message in messages:
                await websocket.send(message)
                assert await websocket.recv() == message
        return seen

    def load(self, actions: list[Callable[[], object]], requests: int = REQUESTS) -> Report:
        """Load the service through the proxy, over TLS, while the actions run."""
        report = asyncio.run(
            Load((self.place.address, HTTPS), mix=over_tls(self.place), pace=PACE).run(requests, actions)
        )
        print(report)
        return report

    def until_well(self) -> None:
        """Wait until all workers serve, and the proxy knows: its health check may have found none."""
        self.service.wait_until_settled(WORKERS)
        with self.client() as client:
            until(lambda: client.get("/pid").is_success, 15.0, what="the proxy to find the service well")


def _name_server(request: httpx.Request) -> None:
    """The name that the certificate is for; the URL has the address."""
    request.extensions["sni_hostname"] = NAME


def ended_connections(place: Place) -> int:
    """How many connections to the application have been closed of late (TIME_WAIT)."""
    address = (place.address, APPLICATION)
    ended = (each for each in psutil.net_connections("tcp4") if each.status == psutil.CONN_TIME_WAIT)
    return sum(address in (each.laddr, each.raddr) for each in ended)


def over_tls(place: Place) -> Mix:
    """The clients of `MIX`, over TLS."""
    context = place.client_context()
    return {type(kind.__name__, (kind,), {"tls": context}): rate for kind, rate in MIX.items()}


class ProxyScenarios:
    """The scenarios. A subclass in a test module inherits them; the module has the fixture `stage`."""

    HIDDEN: ClassVar[tuple[str, ...]] = ("forwarded", "x-forwarded-protocol", "x-forwarded-ssl")
    """Fields that must not come through when a client sends them."""
    NAMES_REQUESTS: ClassVar[bool] = True
    """Whether the proxy gives each request an id of its own."""

    # Who asks, and how

    @pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
    def test_application_sees_client_and_scheme(self, stage: Stage, http2: bool) -> None:
        with stage.client(http2=http2) as client:
            response = client.get("/seen")
        seen = response.json()
        assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert (seen["client"], seen["scheme"]) == (CLIENT, "https"), seen
        assert seen["http_version"] == stage.upstream_version
        fields = dict(seen["fields"])
        assert fields["host"] == NAME
        assert "connection" not in fields
        assert len([name for name, _ in seen["fields"] if name == "host"]) == 1

    @pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
    def test_client_that_lies_is_not_believed(self, stage: Stage, http2: bool) -> None:
        with stage.client(http2=http2) as client:
            response = client.get(
                "/seen", headers=SPOOFED | {"X-Request-ID": "evil" if self.NAMES_REQUESTS else "mine"}
            )
        assert response.status_code == 200
        seen = response.json()
        assert (seen["client"], seen["scheme"]) == (CLIENT, "https"), seen
        assert "x-request-id" in dict(seen["fields"])
        assert not [field for field in seen["fields"] if field[0] in self.HIDDEN]
        assert not [value for _, value in seen["fields"] if "203.0.113" in value or "evil" in value or value == "666"]

    def test_access_log_names_the_client(self, stage: Stage) -> None:
        with stage.client() as client:
            client.get("/seen?in-the-log", headers=SPOOFED).raise_for_status()
        line = stage.service.until_file("access.log", r"^.*in-the-log.*$")[0]
        assert line.startswith(f"{CLIENT} ")

    def test_redirect_names_host_and_scheme_of_the_client(self, stage: Stage) -> None:
        with stage.client() as client:
            assert client.get("/redirect").headers["location"] == f"https://{NAME}/seen"

    def test_plain_http_is_redirected(self, stage: Stage) -> None:
        with HTTPConnection((stage.place.address, HTTP)) as connection:
            response = connection.request("GET", "/seen?a=1")
        assert response.status in {301, 308}
        assert response.field("location") == f"https://{NAME}/seen?a=1"

    # DNS takes a comma as any other character: the last one is a name in evil.example.
    @pytest.mark.parametrize(
        "target, host",
        [
            ("/redirect", "evil.example"),
            ("http://evil.example/redirect", NAME),
            (f"http://{NAME}/redirect", "evil.example"),
            ("/redirect", f"{NAME},evil.example"),
        ],
    )
    def test_client_does_not_choose_the_host_of_a_redirect(self, stage: Stage, target: str, host: str) -> None:
        with HTTPConnection((stage.place.address, HTTPS), tls=stage.place.client_context()) as connection:
            request = encode_request("GET", target, [("Connection", "close")])
            connection.send(request.replace(b"Host: localhost", b"Host: " + host.encode()))
            assert b"evil.example" not in (answer := connection.read_to_end()), answer

    def test_cookie_that_is_too_large_is_refused_by_outrider(self, stage: Stage) -> None:
        with stage.client() as client:
            assert client.get("/seen", headers={"Cookie": "x" * 12_000}).status_code == 431

    # Streams

    def test_websocket_carries_messages_and_knows_its_client(self, stage: Stage) -> None:
        seen = stage.websocket("hello", "x" * 200_000, b"\x00" * 70_000)
        assert (seen["client"], seen["scheme"]) == (CLIENT, "wss"), seen

    @pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
    @pytest.mark.parametrize("media_type", ["text/event-stream", "application/x-ndjson"])
    def test_event_arrives_before_the_next_one_is_sent(self, stage: Stage, http2: bool, media_type: str) -> None:
        name = f"events-{http2}-{media_type[-6:]}"
        with stage.client(http2=http2) as client, client.stream("GET", f"/events/{name}?type={media_type}") as response:
            lines = response.iter_lines()
            assert next(lines) == "data: first"
            stage.service.release(name)
            assert [line for line in lines if line] == ["data: second"]

    LEFT: ClassVar[str] = "/events/left"
    """A stream whose application is told at once when its client leaves."""

    def test_application_is_told_that_the_client_of_a_stream_has_gone(self, stage: Stage) -> None:
        with stage.client() as client, client.stream("GET", self.LEFT) as response:
            assert next(response.iter_lines()).startswith("data: ")
        stage.service.until_event("gone left")

    def test_application_is_told_that_a_waiting_client_has_gone(self, stage: Stage) -> None:
        with HTTPConnection((stage.place.address, HTTPS), tls=stage.place.client_context()) as connection:
            connection.send(encode_request("GET", "/waiting/impatient"))
            until((stage.service.directory / "impatient.held").exists)
        stage.service.until_event("gone impatient")

    @pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
    @pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])
    def test_upload_reaches_the_application_before_it_is_complete(self, stage: Stage, http2: bool, sized: bool) -> None:
        name = f"upload-{http2}-{sized}"
        arrived = stage.service.directory / f"{name}.held"

        def pieces() -> Iterator[bytes]:
            yield from [PIECE] * 8
            until(arrived.exists, 10.0, what="the first bytes, at the application")
            yield from [PIECE] * (PIECES - 8)

        headers = {"Content-Length": str(len(PIECE) * PIECES)} if sized else {}
        with stage.client(http2=http2) as client:
            answer = client.post(f"/upload/{name}", content=pieces(), headers=headers).json()
        assert answer == {"size": len(PIECE) * PIECES, "digest": hashlib.sha256(PIECE * PIECES).hexdigest()}

    def test_large_response_head_arrives(self, stage: Stage) -> None:
        with stage.client() as client:
            assert len(client.get("/large-head?size=12000").headers["x-large"]) == 12000

    def test_response_503_of_the_application_is_passed_on(self, stage: Stage) -> None:
        before = stage.service.events().count("refused")
        with stage.client() as client:
            response = client.get("/refused")
        assert (response.status_code, response.text) == (503, "closed for today")
        assert stage.service.events().count("refused") == before + 1

    def test_connections_to_outrider_are_kept(self, stage: Stage) -> None:
        with stage.client() as client:
            before = ended_connections(stage.place)
            for _ in range(20):
                client.get("/pid").raise_for_status()
        assert ended_connections(stage.place) - before < 10

    # What happens to the service

    def repeats(self, _stage: Stage) -> bool:
        """Whether the proxy sends a GET again when the connection breaks before the response begins."""
        return True

    def test_request_whose_worker_dies_is_sent_again_only_if_that_is_harmless(self, stage: Stage) -> None:
        held = {method: stage.service.directory / f"{method}.held" for method in ("GET", "POST")}
        with contextlib.ExitStack() as stack:
            connections = {}
            for method, file in held.items():
                connection = HTTPConnection((stage.place.address, HTTPS), tls=stage.place.client_context())
                connections[method] = stack.enter_context(connection)
                connection.request("GET", "/pid")  # so that the proxy has a connection to send the next one on
                connection.send(encode_request(method, f"/gate/{method}", body=b"x" if method == "POST" else None))
                until(file.exists)
                file.unlink()
            workers = stage.service.workers()
            for ending in (signal.SIGSTOP, signal.SIGKILL):  # none may take what is sent again, and then die with it
                for worker in workers:
                    os.kill(worker, ending)
            for file in held.values():
                file.with_suffix(".open").touch()
            with contextlib.suppress(TruncatedResponse):  # HAProxy says nothing
                assert connections["POST"].read_head().status >= 500
            assert (connections["GET"].read_head().status == 200) is self.repeats(stage)
        assert (held["GET"].exists(), held["POST"].exists()) == (self.repeats(stage), False)
        stage.until_well()

    def test_no_request_is_lost_in_reloads(self, stage: Stage) -> None:
        def reload() -> None:
            version = max(stage.service.generations()) + 1
            releases.deploy(stage.service.directory, release(version))
            stage.service.reload().check()

        report = stage.load([reload] * RELOADS)
        assert len(report.versions) == RELOADS + 1
        assert not report.lost, f"{report}\n{stage.proxy.log()[-5000:]}"
        stage.service.wait_until_settled(WORKERS)

    def test_worker_that_is_killed_costs_no_more_than_what_it_held(self, stage: Stage) -> None:
        gone_at = 0.0

        def kill() -> None:
            nonlocal gone_at
            victim = stage.service.workers()[0]
            os.kill(victim, signal.SIGKILL)
            stage.service.wait_until_gone(victim)
            gone_at = time.monotonic()  # the clock of the load
            # The status may still count the victim.
            stage.service.until(lambda: len(set(stage.service.workers()) - {victim}) == WORKERS)

        report = stage.load([kill], requests=300)
        (window,) = report.windows
        assert all(window.touches(each) for each in report.lost), f"{report}"
        # How much it held depends on how busy the machine is. Later, only what the proxy sent before it knew.
        assert sum(each.begun > gone_at for each in report.lost) <= 10, f"{report}"
        stage.until_well()


def check_host_is_left_out(stage: Stage, second: OutriderProcess, is_seen_down: Callable[[], bool]) -> Report:
    """Stop the first of two services under load while one request holds up its drain: nothing is lost.

    `is_seen_down` tells whether the proxy knows.
    """

    def stop() -> None:
        with stage.service.hold("last") as held:
            stopping = threading.Thread(target=stage.service.command, args=("stop",))
            stopping.start()
            try:
                until(is_seen_down, 15.0, what="the proxy to leave the host out")
            finally:
                stage.service.release("last")
                stopping.join()
            assert held.read_response().status == 200

    report = stage.load([stop], requests=400)
    pids = {each.pid for each in report.exchanges if each.begun > report.windows[0].ended}
    assert pids <= set(second.workers()), f"{report}"
    assert not report.lost, f"{report}\n{stage.proxy.log()[-5000:]}"
    return report


def check_tls_passes_through(stage: Stage) -> None:
    """TLS ends in Outrider, which learns of the client by a PROXY header; nothing is lost in a reload."""
    with stage.client(http2=True) as client:
        response = client.get("/seen", headers=SPOOFED)
    seen = response.json()
    assert (response.http_version, seen["http_version"]) == ("HTTP/2", "2")
    assert (seen["client"], seen["scheme"]) == (CLIENT, "https"), seen
    seen = stage.websocket()
    assert (seen["client"], seen["scheme"]) == (CLIENT, "wss"), seen
    report = stage.load([lambda: stage.service.reload().check()], requests=300)
    assert not report.lost, f"{report}"
