"""The site as MkDocs builds it: without a warning, and a browser asks no other host for a part of it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from outrider_testing.browser import Browser, browsing
from outrider_testing.documented import REPOSITORY

PAGES = sorted(str(path.relative_to(REPOSITORY / "docs")) for path in (REPOSITORY / "docs").rglob("*.md"))
SHOWN = ("index.html", "architecture.html", "reference/settings.html", "reference/metrics.html")
LOADED = "performance.getEntriesByType('resource').map(entry => entry.name)"
MISSING = "[...document.images].filter(image => !image.complete || !image.naturalWidth).map(image => image.src)"
FOUND = "[...document.querySelectorAll('.md-search-result__item a')].map(link => link.pathname)"

pytestmark = pytest.mark.external


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return directory


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.mark.parametrize("page", PAGES)
def test_site_has_the_page(site: Path, page: str) -> None:
    text = (site / page).with_suffix(".html").read_text(encoding="utf-8")
    assert 'href="../../deploy' not in text
    assert "written by <code>make reference" not in text


@pytest.mark.parametrize("page", SHOWN)
def test_browser_asks_no_other_host(browser: Browser, address: str, page: str) -> None:
    shown = browser.open(f"{address}/{page}")
    loaded = shown.evaluate(LOADED)
    assert loaded
    assert [url for url in loaded if not url.startswith((f"{address}/", "data:"))] == []
    shown.until(f"{MISSING}.length === 0")


def test_search_finds_a_setting(browser: Browser, address: str) -> None:
    page = browser.open(f"{address}/index.html?q=max_worker_memory")
    page.until(f"{FOUND}.includes('/reference/settings.html')")
    assert [url for url in page.evaluate(LOADED) if not url.startswith(f"{address}/")] == []
