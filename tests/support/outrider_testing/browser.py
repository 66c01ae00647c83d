"""A headless Chromium, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from outrider_testing.processes import signal_session
from outrider_testing.waiting import until

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
START_DEADLINE = 60.0
CALL_DEADLINE = 30.0
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # as root, or in a container, Chromium has none to offer
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    "--ignore-certificate-errors",
    "--remote-debugging-port=0",  # any: the profile says which
)


class BrowserMissingError(AssertionError):
    """There is no Chromium; the message says what to install."""


class BrowserError(AssertionError):
    """Chromium refused a command, or a script has failed in the page."""


class Page:
    """An open page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, waited for if it is a promise."""
        options = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self._browser.call("Runtime.evaluate", options, self._session)
        if "exceptionDetails" in answer:
            raise BrowserError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def show_at(self, width: int, height: int, *, dark: bool = False) -> None:
        """Have the page on a screen of this size, for eyes that prefer light or dark colours."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._browser.call("Emulation.setDeviceMetricsOverride", metrics, self._session)
        preference = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._browser.call("Emulation.setEmulatedMedia", {"features": [preference]}, self._session)

    def screenshot(self) -> bytes:
        """The whole page as a PNG."""
        options = {"format": "png", "captureBeyondViewport": True}
        return base64.b64decode(self._browser.call("Page.captureScreenshot", options, self._session)["data"])

    def until(self, expression: str, deadline: float = 20.0) -> None:
        """Wait until a JavaScript expression, or the promise it makes, is true."""
        until(lambda: self.evaluate(f"(async () => Boolean(await ({expression})))()"), deadline, what=expression)


class Browser:
    """A running Chromium."""

    def __init__(self, devtools: ClientConnection) -> None:
        self._devtools = devtools
        self._numbers = itertools.count(1)

    def call(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """Give a command and return its result; events that come meanwhile are passed over."""
        command = {"id": next(self._numbers), "method": method, "params": params}
        self._devtools.send(json.dumps(command | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self._devtools.recv(CALL_DEADLINE))
            if answer.get("id") != command["id"]:
                continue
            if "error" in answer:
                raise BrowserError(f"{method}: {answer['error']['message']}")
            result: dict[str, Any] = answer["result"]
            return result

    def open(self, url: str) -> Page:
        """Open a page of its own and return once its scripts can run."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        navigated = self.call("Page.navigate", {"url": url}, session)
        if "errorText" in navigated:
            raise BrowserError(f"{url}: {navigated['errorText']}")
        page = Page(self, session)
        page.until("document.readyState === 'complete'")
        return page


@contextlib.contextmanager
def browsing(directory: Path) -> Iterator[Browser]:
    """Start a Chromium with a new profile in `directory`; it ends with the block.

    Raises:
        BrowserMissingError: there is none on PATH.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise BrowserMissingError("Chromium is not installed: apt-get install chromium")
    profile, log = directory / "profile", directory / "chromium.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "HOME": str(directory)},
        )
    try:
        with connect(_devtools_url(process, profile, log), max_size=None, ping_interval=None) as devtools:
            yield Browser(devtools)
    finally:
        signal_session(process.pid, signal.SIGKILL)
        process.wait()


def _devtools_url(process: subprocess.Popen[bytes], profile: Path, log: Path) -> str:
    path = profile / "DevToolsActivePort"

    def read() -> list[str]:
        if process.poll() is not None:
            raise BrowserError(f"Chromium has ended with {process.returncode}\n{log.read_text(errors='replace')}")
        lines = path.read_text().splitlines() if path.exists() else []
        return lines if len(lines) == 2 else []

    port, target = until(read, START_DEADLINE, what="the DevTools port of Chromium")
    return f"ws://127.0.0.1:{port}{target}"
