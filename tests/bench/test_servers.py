from __future__ import annotations

from pathlib import Path

import pytest

from address import Address
from servers import SERVERS, Launch

PEERS = [server.key for server in SERVERS.values() if not server.is_floor]


@pytest.mark.parametrize("key", SERVERS)
def test_command_binds_tcp_address(key: str) -> None:
    command = " ".join(SERVERS[key].command(Launch("apps:plaintext", Address(8123))))
    assert "127.0.0.1:8123" in command or "--host 127.0.0.1 --port 8123" in command


@pytest.mark.parametrize("key", SERVERS)
def test_command_binds_unix_socket(key: str) -> None:
    command = " ".join(SERVERS[key].command(Launch("apps:plaintext", Address(0, Path("dir/s.sock")))))
    assert "unix:dir/s.sock" in command or "--uds dir/s.sock" in command


@pytest.mark.parametrize("key", PEERS)
def test_command_changes_with_the_access_log_alone(key: str) -> None:
    quiet = SERVERS[key].command(Launch("apps:plaintext", Address(8123)))
    logging = SERVERS[key].command(Launch("apps:plaintext", Address(8123), Path("access.log")))
    added = [word for word in logging if word not in quiet]
    removed = [word for word in quiet if word not in logging]
    assert (added, removed) in (
        (["--access-logfile", "access.log"], []),
        (["--access-log"], ["--no-access-log"]),
    )


def test_outrider_runs_under_gunicorn() -> None:
    command = SERVERS["outrider"].command(Launch("apps:plaintext", Address(8123)))
    assert command[1:6] == ["-m", "gunicorn", "apps:plaintext", "-w", "1"]
    assert command[-2:] == ["-k", "outrider.UvicornWorker"]
