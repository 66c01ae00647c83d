"""Install a built wheel into an empty environment and let it serve one request.

    python .ci/check_wheel.py dist/outrider-*.whl                # the newest dependencies it allows
    python .ci/check_wheel.py --lowest dist/outrider-*.whl       # the oldest ones

Needs nothing but the standard library, so that any supported Python can run it.
"""

from __future__ import annotations

import argparse
import email
import http.client
import re
import socket
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 60.0

APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http", "no lifespan here"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})
"""

LOWER_BOUND = re.compile(r"^([A-Za-z0-9._-]+)[^;]*?>=\s*([0-9.]+)[^;]*$")


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=START_SECONDS)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def check_contents(wheel: Path) -> None:
    """Refuse a wheel with anything but the packages, their type markers and the metadata."""
    names = zipfile.ZipFile(wheel).namelist()
    strangers = [
        name for name in names if not re.match(r"outrider/|outrider_supervisor/|outrider-[^/]+\.dist-info/", name)
    ]
    if strangers:
        sys.exit(f"{wheel.name} holds files that do not belong there: {', '.join(strangers)}")
    for wanted in ("outrider/py.typed", "outrider_supervisor/py.typed", "dist-info/licenses/LICENSE"):
        if not any(name.endswith(wanted) for name in names):
            sys.exit(f"{wheel.name} has no {wanted}")


def lowest_requirements(wheel: Path) -> list[str]:
    """Turn each ``name>=version`` of the wheel's dependencies into ``name==version``."""
    with zipfile.ZipFile(wheel) as archive:
        [path] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(path))
    bounds = [LOWER_BOUND.match(line) for line in metadata.get_all("Requires-Dist", [])]
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound]


def install(wheel: Path, directory: Path, *, lowest: bool) -> Path:
    """Make an environment with the wheel in it; return its directory of commands."""
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    pip = [str(python), "-m", "pip", "-qq", "--disable-pip-version-check"]
    pins = lowest_requirements(wheel) if lowest else []
    subprocess.run([*pip, "install", str(wheel), *pins], check=True)
    subprocess.run([*pip, "check"], check=True)
    found = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout.split()
    versions = [line for line in found if "==" in line]
    print(f"Python {sys.version.split()[0]}: {wheel.name} with {' '.join(versions)}", flush=True)
    return directory / "bin"


def get_hello(path: Path, server: subprocess.Popen[str]) -> tuple[int, bytes]:
    """Ask until the server answers; status and body."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        connection = UnixConnection(path)
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        finally:
            connection.close()


def serve(command: list[str], directory: Path) -> None:
    """Start a server with one worker, get one answer, stop it; fail with the server's log.

    One worker, so that the answer proves that all have booted: gunicorn sends TERM once, and a worker that
    it has only just forked can miss it.
    """
    (directory / "app.py").write_text(APP)
    path = directory / "socket"
    with (directory / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "app:app", "-w", "1", "-b", f"unix:{path}"],
            cwd=directory,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        answer = get_hello(path, server)
        server.terminate()
        status = server.wait(STOP_SECONDS)
    except (OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
        sys.exit(f"{error!r}\n{(directory / 'log').read_text()}")
    finally:
        server.kill()
    if answer != (200, b"hello") or status != 0:
        sys.exit(f"answered {answer}, exit status {status}\n{(directory / 'log').read_text()}")
    print(f"  {Path(command[0]).name} served a request and stopped cleanly", flush=True)


def main() -> None:
    """Check the wheel named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--lowest", action="store_true", help="install the oldest dependencies allowed")
    arguments = parser.parse_args()
    wheel = arguments.wheel.resolve()
    check_contents(wheel)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        commands = install(wheel, directory / "venv", lowest=arguments.lowest)
        serve([str(commands / "gunicorn"), "-k", "outrider.UvicornWorker", "--no-control-socket"], directory)
        serve([str(commands / "outrider"), "run", "--name", directory.name], directory)


if __name__ == "__main__":
    main()
