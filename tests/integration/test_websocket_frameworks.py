"""WebSockets of the frameworks people use, talked to by the clients people use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import socketio
from gql import Client, gql
from gql.transport.websockets import WebsocketsTransport
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from outrider_testing.apps.websocket_echo import SUBPROTOCOL
from outrider_testing.gunicorn_process import GunicornProcess
from outrider_testing.serving import Serve, serving

PATIENCE = 10.0


def url(server: GunicornProcess, path: str = "/ws", scheme: str = "ws") -> str:
    host, port = server.tcp_address
    return f"{scheme}://{host}:{port}{path}"


@pytest.fixture(scope="module", params=["starlette", "fastapi", "channels"])
def echoing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GunicornProcess]:
    with serving(tmp_path_factory.mktemp(request.param)) as serve:
        yield serve(f"outrider_testing.apps.{request.param}_app:app")


@pytest.fixture
def websocket(echoing: GunicornProcess) -> Iterator[ClientConnection]:
    with connect(url(echoing)) as connection:
        yield connection


def test_framework_echoes_messages_in_order(websocket: ClientConnection) -> None:
    messages: list[str | bytes] = ["hello", "", "Grüße, 世界", b"", b"\x00\xff", b"x" * 200_000]
    for message in messages:
        websocket.send(message)
    assert [websocket.recv(PATIENCE) for _ in messages] == messages


def test_framework_echoes_message_sent_in_fragments(websocket: ClientConnection) -> None:
    websocket.send(["one", " and ", "two"])
    assert websocket.recv(PATIENCE) == "one and two"


def test_framework_answers_ping(websocket: ClientConnection) -> None:
    assert websocket.ping().wait(PATIENCE)


def test_framework_chooses_subprotocol(echoing: GunicornProcess) -> None:
    with connect(url(echoing), subprotocols=[Subprotocol("other"), Subprotocol(SUBPROTOCOL)]) as websocket:
        assert websocket.subprotocol == SUBPROTOCOL


def test_client_gets_close_code_and_reason_of_framework(websocket: ClientConnection) -> None:
    websocket.send("bye")
    with pytest.raises(ConnectionClosed):
        websocket.recv(PATIENCE)
    assert (websocket.close_code, websocket.close_reason) == (4001, "see you")


def test_framework_serves_on_after_client_vanishes(echoing: GunicornProcess) -> None:
    workers = echoing.workers()
    websocket = connect(url(echoing))
    websocket.socket.close()
    with connect(url(echoing)) as other:
        other.send("still there?")
        assert other.recv(PATIENCE) == "still there?"
    assert echoing.workers() == workers


@pytest.fixture(scope="module")
def socketio_server(serve_for_module: Serve) -> GunicornProcess:
    return serve_for_module("outrider_testing.apps.socketio_app:app")


@pytest.mark.parametrize("transports", [["websocket"], ["polling", "websocket"]], ids="-then-".join)
def test_socketio_client_gets_its_events_back(socketio_server: GunicornProcess, transports: list[str]) -> None:
    with socketio.SimpleClient() as client:
        client.connect(url(socketio_server, "", "http"), transports=transports)
        assert client.transport == transports[-1]
        for data in ({"number": 1, "text": "Grüße"}, b"\x00\xff" * 1000):
            assert client.call("repeat", data, timeout=PATIENCE) == data
            assert client.receive(timeout=PATIENCE) == ["repeated", data]


def test_strawberry_subscription_counts(serve: Serve) -> None:
    server = serve("outrider_testing.apps.strawberry_app:app")

    async def subscribe() -> list[int]:
        async with Client(transport=WebsocketsTransport(url(server, "/"))) as session:
            answers = session.subscribe(gql("subscription { count(target: 100) }"))
            return [answer["count"] async for answer in answers]

    assert asyncio.run(subscribe()) == list(range(1, 101))
