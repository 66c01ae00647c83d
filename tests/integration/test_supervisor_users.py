"""Who the processes of a service are: the supervisor and what it owns stay as they were started, workers may change."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from outrider_testing import releases
from outrider_testing.launchers import AS_NOBODY, WITHOUT_SETUID, can_be_nobody
from outrider_testing.serving import Supervise, public_directory, supervising

NOBODY = pwd.getpwnam("nobody")
NO_CANARY = "--no-canary"

# Whoever has started the tests, and where root can become nobody, nobody.
LAUNCHERS: dict[str, tuple[str, ...]] = {"own user": ()} | ({"nobody": AS_NOBODY} if can_be_nobody() else {})


@pytest.fixture
def supervise_in_public() -> Iterator[Supervise]:
    """Start supervisors whose directories are open to every user."""
    with public_directory() as directory, supervising(directory) as start:
        yield start


def test_workers_run_as_the_configured_user_and_the_control_socket_stays_the_supervisors(
    supervise_in_public: Supervise,
) -> None:
    """Root's workers change their user; anybody else's refuse to start rather than serve as they are."""
    options = ("--user", str(NOBODY.pw_uid), "--group", str(NOBODY.pw_gid), "--preload", NO_CANARY)
    if os.getuid() != 0:
        assert supervise_in_public(*options, workers=0).wait() != 0
        return
    # Nobody may be unable to read the interpreter's library; gunicorn's random.seed() imports this late.
    server = supervise_in_public(*options, config="import hashlib\n")
    for generation in (1, 2):
        answer = server.get("/identity").json()
        assert (answer["uid"], answer["gid"]) == (NOBODY.pw_uid, NOBODY.pw_gid)
        assert psutil.Process(server.pid).uids().effective == 0
        assert psutil.Process(server.current()["master_pid"]).uids().effective == 0
        socket = Path(server.control_socket).stat()
        assert (socket.st_uid, socket.st_gid, stat.S_IMODE(socket.st_mode)) == (0, 0, 0o600)
        if generation == 1:
            releases.deploy(server.directory, releases.good(2))
            server.reload().check()
            server.wait_until_settled(1, generation=2)


def test_supervisor_without_right_to_change_user_refuses(supervise: Supervise) -> None:
    server = supervise("--user", str(NOBODY.pw_uid + 1), workers=0, launcher=WITHOUT_SETUID)
    assert server.wait() != 0
    assert str(NOBODY.pw_uid + 1) in server.log_text()


@pytest.mark.parametrize("launcher", LAUNCHERS.values(), ids=LAUNCHERS)
def test_supervisor_needs_no_rights(supervise_in_public: Supervise, launcher: tuple[str, ...]) -> None:
    uid = NOBODY.pw_uid if launcher else os.getuid()
    run = {"RUNTIME_DIRECTORY": ""}
    with public_directory() as private:
        private.chmod(0o700)
        os.chown(private, uid, -1)
        server = supervise_in_public(
            NO_CANARY, "--pid", "shop.pid", workers=0, launcher=launcher, env=run | {"XDG_RUNTIME_DIR": str(private)}
        )
        server.runtime_directory.rmdir()
        server.runtime_directory = private / "outrider"
        server.wait_until_ready()
        assert server.get("/identity").json()["uid"] == uid
        assert psutil.Process(server.pid).uids().real == uid
        for path in (server.control_socket, server.directory / "shop.pid"):
            assert Path(path).stat().st_uid == uid
        assert server.ask("/v1/reload", {}).status == 200
        server.wait_until_settled(1, generation=2)
        assert server.ask("/v1/scale", {"workers": 2}).status == 200
        server.wait_until_settled(2, generation=2)
        assert server.ask("/v1/upgrade", {}).status == 200
        server.wait_until_settled(2, generation=2)
        assert server.get("/identity").json()["uid"] == uid
