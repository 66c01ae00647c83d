"""A browser shows the example's live page through reloads, over HTTP/1.1 and over HTTP/2 with TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import hello
from outrider_testing.browser import Browser, Page, browsing
from outrider_testing.certificates import Authority
from outrider_testing.launchers import BUSY_MACHINE
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.serving import Supervise

RELOADS = 2
LINES = list(range(1, 11))
WEBSOCKET_OVER = {"http/1.1": "HTTP/1.1", "h2": "HTTP/2"}
# Chromium knows RFC 8441, but may open a connection for its first WebSocket before it sees that the one it has will do.
ECHO_COMES_OVER = """\
new Promise((resolve, reject) => {{
  const socket = new WebSocket(new URL("ws", location.href.replace(/^http/, "ws")));
  socket.onopen = () => socket.send("0");
  socket.onerror = reject;
  socket.onmessage = event => {{
    resolve(event.data.endsWith("over {protocol}"));
    socket.close();
  }};
}})"""
RESTARTED = 1012  # RFC 6455's registry: Service Restart

CONFIG = """\
canary = False
graceful_timeout = 5
"""
TLS = """\
certfile, keyfile = {pair!r}
http_protocols = "h2,h1"
"""

pytestmark = pytest.mark.external


@dataclass(frozen=True, slots=True)
class Shown:
    """A page, the server behind it, and the protocol between them."""

    page: Page
    server: OutriderProcess
    protocol: str


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture(params=["http/1.1", "h2"])
def shown(request: pytest.FixtureRequest, browser: Browser, supervise: Supervise, tmp_path: Path) -> Shown:
    protocol: str = request.param
    is_secure = protocol == "h2"
    pair = Authority().write_pair(tmp_path, "server", "localhost", "127.0.0.1")
    config = CONFIG + (TLS.format(pair=pair) if is_secure else "")
    env = {"PYTHONPATH": str(Path(hello.__file__).parent)}
    server = supervise(app="hello:app", workers=2, config=config, env=env, launcher=BUSY_MACHINE)
    host, port = server.tcp_address
    page = browser.open(f"{'https' if is_secure else 'http'}://{host}:{port}/live")
    return Shown(page, server, protocol)


def is_fed(shown: Shown, streams: int) -> Callable[[], bool]:
    """Tell whether events and echoes have come from the workers there are now, and more streams than so many."""
    workers = set(shown.server.workers())

    def look() -> bool:
        seen = shown.page.evaluate("live")
        sources = [set(map(int, seen["workers"].get(kind, {}))) for kind in ("events", "echoes")]
        return all(source & workers for source in sources) and len(seen["streams"]) > streams

    return look


def test_page_goes_on_through_reloads_without_a_gap(shown: Shown) -> None:
    page, server = shown.page, shown.server
    server.until(is_fed(shown, streams=0), 30.0, "a page that is fed")
    assert page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol") == shown.protocol
    page.until(ECHO_COMES_OVER.format(protocol=WEBSOCKET_OVER[shown.protocol]))
    for _ in range(RELOADS):
        server.reload().check()
        complete = page.evaluate("live.streams.length")
        server.until(is_fed(shown, streams=complete + 1), 30.0, "a page that is fed by the new workers")
    seen = page.evaluate("live")
    assert seen["events"] == list(range(1, len(seen["events"]) + 1))
    assert seen["echoes"] == list(range(1, len(seen["echoes"]) + 1))
    assert seen["streams"] == [LINES] * len(seen["streams"])
    assert seen["faults"] == []
    assert set(seen["closes"]) == {RESTARTED}
    assert len(seen["closes"]) >= RELOADS  # more, where it came back to another worker that was about to go
