"""Take the pictures of the dashboard and of `outrider top` for the docs: a service under load that is reloaded.

`make screenshots`, or with tests/support on PYTHONPATH: python tests/bench/screenshots.py
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from pathlib import Path

from outrider_supervisor.client import ControlClient
from outrider_supervisor.top import Top
from outrider_testing import releases
from outrider_testing.browser import browsing
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.waiting import until

PICTURES = Path(__file__).parents[2] / "docs" / "images"
WORKERS = 4
LOAD_SECONDS = 60
BEFORE = 30.0
"""Seconds of load before the reload: the lines have some history then."""
IS_ROLLING = "[...document.querySelectorAll('.generation .badge')].map(badge => badge.textContent).includes('rolling')"


def main() -> None:
    """Write the pictures into docs/images."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "shop"
        directory.mkdir()
        (directory / "app.py").write_text(releases.good(1))
        options = ("-w", str(WORKERS), "--admin-bind", "127.0.0.1:0", "--canary-seconds", "8", "--name", "shop")
        server = OutriderProcess(directory, releases.APP, *options)
        server.name = "shop"
        try:
            server.wait_until_ready(WORKERS)
            host, port = server.tcp_address
            with subprocess.Popen(["wrk", "-t1", "-c32", f"-d{LOAD_SECONDS}s", f"http://{host}:{port}/"]):
                _take(server, Path(name))
        finally:
            server.stop()


def _take(server: OutriderProcess, directory: Path) -> None:
    reload_at = time.monotonic() + BEFORE
    with browsing(directory) as browser:
        page = browser.open(server.admin_url)
        page.show_at(1280, 860)
        until(lambda: time.monotonic() > reload_at, 2 * BEFORE, what="some history")
        reloading = server.begin("reload")
        asyncio.run(_show_top(server))
        page.until(IS_ROLLING)
        (PICTURES / "dashboard.png").write_bytes(page.screenshot())
        page.show_at(1280, 860, dark=True)
        (PICTURES / "dashboard-dark.png").write_bytes(page.screenshot())
    server.finish(reloading).check()


async def _show_top(server: OutriderProcess) -> None:
    top = Top(ControlClient(Path(server.control_socket)))
    async with top.run_test(size=(118, 30)) as pilot:
        await pilot.press("right", "right", "right")  # by requests a second
        for _ in range(50):
            await pilot.pause(0.1)
        top.save_screenshot(str(PICTURES / "top.svg"))


if __name__ == "__main__":
    main()
