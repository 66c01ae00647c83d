"""Deploy a release: write the app.py and gunicorn.conf.py that the next reload finds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

APP = "app:app"

_GOOD = """\
from outrider_testing.apps.release import make

app = make({version!r})
"""

_FAULTY = """\
from outrider_testing.apps.release import make

app = make({version!r}, fault={fault!r}, seconds={seconds!r})
"""

_HELD = """\
from pathlib import Path

from outrider_testing.waiting import until

until(Path("go").exists, 60.0)
"""


def good(version: object) -> str:
    """The app.py of a release that works."""
    return _GOOD.format(version=str(version))


def faulty(version: object, fault: str, seconds: float = 0.0) -> str:
    """The app.py of a release that starts, or tries to, and then shows one of the faults of `apps.release`."""
    return _FAULTY.format(version=str(version), fault=fault, seconds=seconds)


def held_at_import(version: object) -> str:
    """The app.py of a release that works, but is not imported before `let_import`."""
    return f"{_HELD}\n{good(version)}"


def let_import(directory: Path) -> None:
    """Let the release of `held_at_import` be imported."""
    (directory / "go").touch()


def slow_to_import(version: object, seconds: float) -> str:
    """The app.py of a release that works, but takes so long to import."""
    return f"import time\n\ntime.sleep({seconds!r})\n\n{good(version)}"


def large(version: object, mebibytes: int) -> str:
    """The app.py of a release that works, and holds so much memory."""
    return f"{good(version)}\nheld = b'x' * ({mebibytes} << 20)\n"


def deploy(directory: Path, app: str) -> None:
    """Put a release into the place of the one that is there, at one blow, as a deployment should."""
    _replace(directory / "app.py", app)


def configure(directory: Path, more: str) -> None:
    """Add lines to gunicorn.conf.py."""
    path = directory / "gunicorn.conf.py"
    _replace(path, f"{path.read_text()}\n{more}\n")


@contextlib.contextmanager
def configured(directory: Path, more: str) -> Iterator[None]:
    """Add lines to gunicorn.conf.py for a while."""
    path = directory / "gunicorn.conf.py"
    before = path.read_text()
    configure(directory, more)
    try:
        yield
    finally:
        _replace(path, before)


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
