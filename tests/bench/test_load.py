"""What the load generator says of what it saw; and what its clients hold for a loss."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket

import pytest

from outrider_testing.http_client import Response
from outrider_testing.load import STALL, Load, Report, Window, percentile
from outrider_testing.load_clients import Exchange, KeepAliveClient, NewConnectionClient, Outcome, Pace, judge

ANSWER = b"HTTP/1.1 200 OK\r\nX-Version: 3\r\nX-Pid: 5\r\nContent-Length: 2\r\n\r\nhi"


def exchange(
    begun: float = 0.0, wait: float = 0.001, outcome: Outcome = Outcome.OK, kind: str = "keep-alive", version: str = ""
) -> Exchange:
    return Exchange(
        kind, begun, outcome, sent=begun, first_byte=begun + wait, ended=begun + wait + 0.001, version=version
    )


@pytest.mark.parametrize("percent, wanted", [(1, 1), (50, 5), (51, 6), (90, 9), (99, 10), (100, 10)])
def test_percentile_is_one_of_the_numbers(percent: float, wanted: int) -> None:
    assert percentile(range(1, 11), percent) == wanted


def test_percentile_of_nothing_is_nothing() -> None:
    assert percentile([], 99) == 0.0


@pytest.mark.parametrize("begun, touches", [(0.0, False), (0.9995, True), (1.5, True), (2.0, True), (2.1, False)])
def test_window_touches_what_was_under_way(begun: float, touches: bool) -> None:
    assert Window("reload", 1.0, 2.0).touches(exchange(begun)) is touches


def test_report_tells_waits_while_acting_from_steady_ones() -> None:
    report = Report(
        [exchange(0.0, 0.010), exchange(1.5, 0.030), exchange(1.6, 0.020), exchange(1.7, outcome=Outcome.RESET)],
        [Window("reload", 1.0, 2.0)],
    )
    assert report.waits(acting=False) == pytest.approx([0.010])
    assert report.waits(acting=True) == pytest.approx([0.020, 0.030])


def test_report_counts_losses_versions_and_stalls() -> None:
    report = Report(
        [
            exchange(version="1"),
            exchange(version="2"),
            exchange(version="2", wait=STALL + 0.1),
            exchange(outcome=Outcome.REFUSED, kind="new connection"),
            exchange(outcome=Outcome.SERVER_ERROR, version="2"),
        ]
    )
    assert (report.requests, len(report.lost)) == (5, 2)
    assert report.count(Outcome.REFUSED, Outcome.EMPTY) == 1
    assert report.requests_of(NewConnectionClient) == 1
    assert report.versions == {"1": 1, "2": 3}
    assert len(report.stalls) == 1
    assert report.longest_wait == pytest.approx(STALL + 0.1)


def test_report_shows_what_was_lost_and_when() -> None:
    lost = exchange(1.5, outcome=Outcome.RESET)
    lost.detail = "Connection reset by peer"
    text = str(Report([exchange(version="1"), lost], [Window("reload", 1.0, 2.0)], lateness=0.012))
    assert text.splitlines()[0] == "1 lost of 2 (1 by 1)"
    assert "reload: 1.0 s, 1 lost meanwhile" in text
    assert "late by up to 12 ms" in text
    assert text.splitlines()[-1].endswith("Connection reset by peer")


@pytest.mark.parametrize(
    "status, body, outcome",
    [
        (200, b"hi", Outcome.OK),
        (200, b"ho", Outcome.WRONG),
        (404, b"hi", Outcome.WRONG),
        (500, b"hi", Outcome.SERVER_ERROR),
        (503, b"", Outcome.SERVER_ERROR),
    ],
)
def test_answer_is_judged(status: int, body: bytes, outcome: Outcome) -> None:
    assert judge(Response("HTTP/1.1", status, "", [], body), b"hi") is outcome


class Server:
    """Answers each request, and closes a connection after some of them, without a word before."""

    def __init__(self, answers: int = 1000, answer: bytes = ANSWER) -> None:
        self.connections = 0
        self._answers = answers
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            for _ in range(self._answers):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def make_one(server: Server, *, is_listening: bool = True) -> Exchange:
    """What becomes of one request, on a connection of its own."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    address = listening.sockets[0].getsockname()
    if not is_listening:
        listening.close()
    try:
        return await NewConnectionClient(address, random.Random(1), Pace(patience=5.0)).make()
    finally:
        listening.close()


@pytest.mark.parametrize(
    "answer, outcome",
    [
        (ANSWER, Outcome.OK),
        (ANSWER.replace(b"200", b"500"), Outcome.SERVER_ERROR),
        (ANSWER.replace(b"200", b"404"), Outcome.WRONG),
        (ANSWER[:-1], Outcome.SHORT),
        (ANSWER[:10], Outcome.SHORT),
        (b"", Outcome.EMPTY),
    ],
)
def test_client_notes_how_a_request_ends(answer: bytes, outcome: Outcome) -> None:
    made = asyncio.run(make_one(Server(1, answer)))
    assert made.outcome is outcome
    assert made.version == ("3" if answer[-2:] == b"hi" else "")


def test_client_notes_that_nobody_listens() -> None:
    assert asyncio.run(make_one(Server(), is_listening=False)).outcome is Outcome.REFUSED


def test_client_does_not_use_a_connection_whose_end_its_loop_has_not_seen_yet() -> None:
    async def scenario() -> list[Exchange]:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.settimeout(5.0)
        client = KeepAliveClient(listening.getsockname(), random.Random(1), Pace(patience=5.0))
        client.connections = 1
        exchanges = []
        for _ in range(2):
            made = asyncio.ensure_future(client.make())
            served, _ = await asyncio.to_thread(listening.accept)
            with served:
                await asyncio.to_thread(served.recv, 1000)
                served.sendall(ANSWER)
                exchanges.append(await made)
            # It is closed, and the loop takes up the next request before it looks at the connection.
        client.close()
        listening.close()
        return exchanges

    assert [each.outcome for each in asyncio.run(scenario())] == [Outcome.OK, Outcome.OK]


def test_load_makes_the_requests_and_spreads_the_actions_over_them() -> None:
    made_before = []

    async def scenario() -> Report:
        server = Server()
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        load = Load(listening.sockets[0].getsockname(), mix={NewConnectionClient: 500})
        try:
            return await load.run(60, [lambda: made_before.append(load.report.requests)] * 2)
        finally:
            listening.close()

    report = asyncio.run(scenario())
    assert report.requests >= 60
    assert not report.lost
    assert [made >= due for made, due in zip(made_before, (20, 40), strict=True)] == [True, True]
    first, second = report.windows
    assert first.ended <= second.begun


def test_failure_of_an_action_ends_the_load() -> None:
    counter = itertools.count()

    def fail() -> None:
        next(counter)
        raise LookupError("the reload failed")

    async def scenario() -> None:
        listening = await asyncio.start_server(Server().serve, "127.0.0.1", 0)
        try:
            await Load(listening.sockets[0].getsockname(), mix={NewConnectionClient: 500}).run(30, [fail, fail])
        finally:
            listening.close()

    with pytest.raises(LookupError, match="the reload failed"):
        asyncio.run(scenario())
    assert next(counter) == 1
