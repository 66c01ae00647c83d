"""A real proxy with a configuration of deploy/ in front of a real service.

The committed files are used as they are, but for what their reader is told to change, and what one machine has only
once: the name, the paths, and the address. Each process of the tests has a loopback address of its own, so the ports
are those of the files.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from outrider_testing.certificates import Authority
from outrider_testing.documented import REPOSITORY
from outrider_testing.http_client import fetch
from outrider_testing.launchers import BUSY_MACHINE
from outrider_testing.outrider_process import OutriderProcess
from outrider_testing.processes import session_members, signal_session
from outrider_testing.programs import ENDS_WITH_TEST
from outrider_testing.serving import public_directory
from outrider_testing.waiting import until

DEPLOY = REPOSITORY / "deploy"
HTTP, HTTPS, APPLICATION, TLS_APPLICATION, ADMIN = 80, 443, 8000, 8443, 9100

NAME = "localhost"
"""In the place of shop.example.com."""
SECOND_HOST = "10.0.0.12"
"""The address of another host in the files."""
CLIENT = "127.9.8.7"
"""The address of a client: any but 127.0.0.1, which is the proxy's."""

_RELEASE = """\
from outrider_testing.apps.behind_proxy import make

app = make({version!r})
"""
_OPTIONS = ("--canary-requests", "10", "--canary-seconds", "0.2")
_INSTEAD_OF_TCP = {"unix", "h2c"}
_TOLD_OF_END = ("setpriv", "--pdeathsig", "TERM")
"""As `ENDS_WITH_TEST`, but so that a proxy can take its workers along."""
_numbers = itertools.count()


def release(version: object) -> str:
    """The app.py of a release of `apps.behind_proxy`."""
    return _RELEASE.format(version=str(version))


def own_address() -> str:
    """A loopback address that no other test has now (127.0.0.0/8 is this machine, RFC 1122 §3.2.1.3)."""
    number = (os.getpid() << 4 | next(_numbers) & 15) % (1 << 23)
    return f"127.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def choose(text: str, *alternatives: str) -> str:
    """Take the marks of these alternatives away, and the lines that they replace."""
    lines = text.splitlines()
    for name in alternatives:
        assert any(line.lstrip().startswith(f"#{name} ") for line in lines), f"there is no line marked #{name}"
        lines = [line.replace(f"#{name} ", "", 1) if line.lstrip().startswith(f"#{name} ") else line for line in lines]
        if name in _INSTEAD_OF_TCP:
            lines = [line for line in lines if not line.endswith("# tcp")]
    return "\n".join(lines) + "\n"


def replace(text: str, changes: Mapping[str, str]) -> str:
    """Put other values in the place of those that a file has; each must be there."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the file"
        text = text.replace(old, new)
    return text


@dataclass
class Place:
    """Where everything of one stage is: an address and a directory that other users can reach, too."""

    directory: Path
    address: str = field(default_factory=own_address)
    second: str = field(default_factory=own_address)
    authority: Authority = field(default_factory=Authority)

    def __post_init__(self) -> None:
        pair = self.authority.write_pair(self.directory, "shop", NAME)
        self.certificate, self.key = pair
        (self.directory / "shop.pem").write_text("".join(Path(part).read_text() for part in pair))
        for name in ("etc", "static", "protected", "run"):
            (self.directory / name).mkdir()

    def changes(self) -> dict[str, str]:
        """What stands in the place of what the files have, if they have it."""
        return {
            "shop.example.com": NAME,
            **{f"127.0.0.1:{port}": f"{self.address}:{port}" for port in (APPLICATION, TLS_APPLICATION, ADMIN)},
            f"{SECOND_HOST}:{APPLICATION}": f"{self.second}:{APPLICATION}",
            "/etc/ssl/shop/fullchain.pem": self.certificate,
            "/etc/ssl/shop/privkey.pem": self.key,
            "/etc/ssl/shop/shop.pem": str(self.directory / "shop.pem"),
            "/srv/shop/": f"{self.directory}/",
            "/run/shop/http.sock": f"{self.directory}/run/http.sock",
            "/var/lib/haproxy/shop/http.sock": f"{self.directory}/run/shop/http.sock",
        }

    def render(self, path: str, *alternatives: str, changes: Mapping[str, str] | None = None) -> str:
        """A file of deploy/ with these alternatives, and with the values of this place; `changes` must apply."""
        text = choose((DEPLOY / path).read_text(), *alternatives)
        present = {old: new for old, new in self.changes().items() if old in text}
        return replace(text, {**present, **(changes or {})})

    def client_context(self, *alpn: str) -> ssl.SSLContext:
        """The TLS of a client."""
        return self.authority.client_context(alpn=alpn or ("http/1.1",))


class ProxyProcess:
    """A running proxy."""

    def __init__(self, place: Place, command: Sequence[str]) -> None:
        """Start it, and wait until requests get through."""
        self.place = place
        self._log = place.directory / "proxy.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_TOLD_OF_END, *command],
                cwd=place.directory,
                env={**os.environ, "HOME": str(place.directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            until(self._serves, 20.0, what=f"{command[0]} to serve")
        except BaseException:
            print(self.log())
            self.stop()
            raise

    def log(self) -> str:
        """What it has written."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End it and all its processes."""
        for number, patience in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
            signal_session(self.process.pid, number)
            with contextlib.suppress(TimeoutError, subprocess.TimeoutExpired):
                self.process.wait(patience)
                until(lambda: not session_members(self.process.pid), patience)
                return

    def _serves(self) -> bool:
        assert self.process.poll() is None, f"it has exited with {self.process.returncode}\n{self.log()}"
        with contextlib.suppress(OSError):
            return fetch((self.place.address, HTTPS), "/pid", tls=self.place.client_context()).status == 200
        return False


@contextlib.contextmanager
def running(place: Place, command: Sequence[str]) -> Iterator[ProxyProcess]:
    """A proxy that is stopped afterwards."""
    proxy = ProxyProcess(place, command)
    try:
        yield proxy
    finally:
        print(f"--- log of the proxy ---\n{proxy.log()[-20_000:]}")
        proxy.stop()


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """A place that is gone afterwards."""
    with public_directory() as directory:
        yield Place(directory)


@contextlib.contextmanager
def service(
    place: Place, proxy: str, *alternatives: str, group: str = "", host: str = "127.0.0.1", workers: int = 2
) -> Iterator[OutriderProcess]:
    """Outrider with the gunicorn.conf.py of deploy/PROXY; at `SECOND_HOST` it is the second of two."""
    settings = place.render(f"{proxy}/gunicorn.conf.py", *alternatives)
    if host == SECOND_HOST:
        settings = settings.replace(place.address, place.second)
    directory = place.directory / f"service-{host}"
    directory.mkdir()
    settings += f"accesslog = {str(directory / 'access.log')!r}\n"
    if group:  # the user of the proxy is in it: the socket is open to nobody else
        settings += f"group = {group!r}\n"
    server = OutriderProcess(
        directory,
        "app:app",
        *("-w", str(workers)),
        *_OPTIONS,
        config=settings,
        files={"app.py": release(1)},
        launcher=(*ENDS_WITH_TEST, *BUSY_MACHINE),
    )
    try:
        yield server.wait_until_ready(workers)
    finally:
        print(f"--- log of the service ---\n{server.log_text()}")
        server.stop()
