"""The dashboard in a browser: a service under load, its reloads, and commands. Screenshots are in build/screenshots."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_testing import releases
from outrider_testing.browser import Browser, Page, browsing
from outrider_testing.http_client import encode_request
from outrider_testing.launchers import BUSY_MACHINE
from outrider_testing.load import Load
from outrider_testing.load_clients import KeepAliveClient
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.serving import Supervise

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
WORKERS = 2
REQUESTS = 800
TOKEN = "0123456789abcdef-0123456789abcdef"
CONFIG = """\
admin_token_file = "token"
canary_seconds = 3
canary_requests = 0
"""
SCREENS = {"wide": (1280, 900, False), "narrow": (390, 844, False), "dark": (1280, 900, True)}
FITS = "document.documentElement.scrollWidth <= innerWidth"
STATES = "[...document.querySelectorAll('.generation .badge')].map(badge => badge.textContent)"
TILES_WITH_LINES = ("Requests", "Latency, p99", "Loop lag, worst", "Memory", "Pool")
COLUMNS_WITH_LINES = ("Requests/s", "Loop lag", "Loop busy", "Memory")
WORKERS_SHOWN = (
    "[...document.querySelectorAll('#workers tbody tr:not(.generation) td:first-child')].map(td => +td.textContent)"
)
TILES = "[...document.querySelectorAll('.tile')].map(tile => tile.querySelector('.value').textContent)"
LINES = "[...document.querySelectorAll('.spark')]"
LABELS_OF_LINES = f"{LINES}.map(line => line.getAttribute('aria-label'))"
STALLS = "[...document.querySelectorAll('#stalls tbody code')].map(code => code.textContent)"
MESSAGES = "[...document.querySelectorAll('#events span')].map(span => span.textContent)"

pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture
def server(supervise: Supervise) -> OutriderProcess:
    return supervise(
        "--admin-bind",
        "127.0.0.1:0",
        workers=WORKERS,
        config=CONFIG,
        files={"token": TOKEN},
        launcher=BUSY_MACHINE,
    )


@pytest.fixture
def page(browser: Browser, server: OutriderProcess) -> Page:
    """Return the dashboard, which has been given the token."""
    opened = browser.open(server.admin_url)
    opened.until("document.getElementById('token-dialog').open")
    opened.evaluate(f"document.getElementById('token').value = {TOKEN!r}")
    opened.evaluate("document.querySelector('#token-dialog button[value=ok]').click()")
    opened.until("document.getElementById('live').textContent === 'live'")
    opened.until(f"{WORKERS_SHOWN}.length === {WORKERS}")
    return opened


def take_screenshots(page: Page, moment: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for name, (width, height, dark) in SCREENS.items():
        page.show_at(width, height, dark=dark)
        page.until(FITS)
        (SCREENSHOTS / f"dashboard-{moment}-{name}.png").write_bytes(page.screenshot())


def test_page_shows_a_service_under_load_and_its_reload(page: Page, server: OutriderProcess) -> None:
    def reload() -> None:
        page.until(f"parseFloat({TILES}[0]) > 0")
        releases.deploy(server.directory, releases.good(2))
        reloading = server.begin("reload")
        page.until(f"{STATES}.includes('canary')")
        page.until("document.getElementById('operation').textContent.startsWith('reload: ')")
        take_screenshots(page, "reload")
        server.finish(reloading).check()
        page.until(f"JSON.stringify({STATES}) === '[\"current\"]'")
        workers = sorted(server.workers())
        page.until(f"JSON.stringify({WORKERS_SHOWN}.sort((a, b) => a - b)) === '{workers}'.replaceAll(' ', '')")
        page.until(f"{MESSAGES}.some(text => text.includes('generation 2 is current'))")
        page.until(f"{LINES}.every(line => line.querySelector('path'))")
        labels = set(page.evaluate(LABELS_OF_LINES))
        assert {f"{name} over the last ten minutes" for name in TILES_WITH_LINES} <= labels
        assert {f"{name} of worker {pid}" for name in COLUMNS_WITH_LINES for pid in workers} <= labels
        take_screenshots(page, "load")

    report = asyncio.run(Load(server.address, mix={KeepAliveClient: 100}).run(REQUESTS, [reload]))
    assert not report.lost, report
    assert page.evaluate(
        "performance.getEntriesByType('resource').every(entry => entry.name.startsWith(location.origin))"
    )


def give(page: Page, command: str, answer: str = "ok") -> None:
    """Press the button of a command, and answer the question whether it is meant."""
    page.evaluate(f"document.querySelector('[data-command={command}]').click()")
    page.evaluate(f"document.querySelector('#confirm-dialog button[value={answer}]').click()")


def read_outcome(page: Page) -> str:
    """Wait for the outcome of a command, and close what shows it."""
    page.until("document.getElementById('outcome-dialog').open")
    outcome: str = page.evaluate("document.getElementById('outcome').textContent")
    page.evaluate("document.querySelector('#outcome-dialog button').click()")
    return outcome


def test_page_carries_out_commands_that_are_confirmed(page: Page, server: OutriderProcess) -> None:
    give(page, "scale", "cancel")
    give(page, "scale")
    assert read_outcome(page) == "serving with 3 workers"
    page.until(f"{WORKERS_SHOWN}.length === 3")
    assert server.status()["target"] == 3  # and not 4: what was not confirmed was not done
    give(page, "dump")
    assert read_outcome(page).startswith("worker ")
    assert "Worker dump" in page.evaluate("document.getElementById('details').textContent")


def test_page_shows_what_the_application_says_as_text(page: Page, server: OutriderProcess) -> None:
    releases.deploy(server.directory, "raise RuntimeError('<img src=x>')")
    give(page, "reload")
    assert "rolled back" in read_outcome(page)
    assert "RuntimeError: <img src=x>" in page.evaluate("document.getElementById('details').textContent")
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    page.until(f"JSON.stringify({STATES}) === '[\"current\"]'")


def test_page_shows_what_blocks_a_loop(page: Page, server: OutriderProcess) -> None:
    assert page.evaluate("document.getElementById('stalls-section').hidden")
    with server.connect(timeout=60.0) as connection:
        connection.send(encode_request("GET", "/block?gate=stall"))
        page.until(f"{STALLS}.some(text => text.startsWith('outrider_testing.'))")
        server.release("stall")
        assert connection.read_response().status == 200


def test_page_finds_the_service_again(page: Page, server: OutriderProcess) -> None:
    page.evaluate("window.isTheSamePage = true")
    server.upgrade().check()
    server.wait_until_settled(WORKERS)
    page.until("document.getElementById('live').textContent === 'live'")
    page.until(f"{MESSAGES}.some(text => text.includes('replaced in place'))")
    assert page.evaluate("window.isTheSamePage")
