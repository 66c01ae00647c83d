from __future__ import annotations

from pathlib import Path

import pytest

from address import Address
from certificate import Certificate
from loads import LOADS
from servers import SERVERS, Launch

PEERS = [server.key for server in SERVERS.values() if not server.is_floor]

WITHOUT_WEBSOCKETS = {"outrider-loop-tls", "outrider-metrics", "uvicorn-zttp", "granian-no-ws", "floor"}


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


@pytest.mark.parametrize("key", PEERS)
def test_command_takes_certificate(key: str) -> None:
    certificate = Certificate(Path("server.pem"), Path("server.key"))
    command = SERVERS[key].command(Launch("apps:plaintext", Address(8123), certificate=certificate))
    assert command[command.index("server.pem") - 1] in {"--certfile", "--ssl-certfile", "--ssl-certificate"}
    assert command[command.index("server.key") - 1] in {"--keyfile", "--ssl-keyfile"}


@pytest.mark.parametrize("key", ["outrider", "gunicorn-asgi"])
def test_gunicorn_is_told_to_speak_http2(key: str) -> None:
    certificate = Certificate(Path("server.pem"), Path("server.key"))
    for given, in_clear_text in ((None, True), (certificate, False)):
        launch = Launch("apps:plaintext", Address(8123), certificate=given, uses_http2=True)
        command = SERVERS[key].command(launch)
        assert command[command.index("--http-protocols") + 1] == "h2,h1"
        assert ("--http2-cleartext" in command) is in_clear_text
    assert "--http-protocols" not in SERVERS[key].command(Launch("apps:plaintext", Address(8123)))


@pytest.mark.parametrize(
    "load, absent",
    [
        ("plaintext", {"outrider-loop-tls", "outrider-metrics"}),
        ("metrics", SERVERS.keys() - {"outrider", "outrider-metrics"}),
        ("tls-plaintext", {"outrider-metrics", "floor"}),
        ("json", {"outrider-loop-tls", "outrider-metrics", "floor"}),
        (
            "h2c-plaintext",
            {"outrider-loop-tls", "outrider-metrics", "uvicorn", "uvicorn-worker", "granian-no-ws", "floor"},
        ),
        ("h2-plaintext", {"outrider-metrics", "uvicorn", "uvicorn-worker", "granian-no-ws", "floor"}),
        ("websocket-64b-32", WITHOUT_WEBSOCKETS),
        ("websocket-64b-32-deflate", WITHOUT_WEBSOCKETS | {"granian", "gunicorn-asgi"}),
    ],
)
def test_server_takes_what_it_speaks(load: str, absent: set[str]) -> None:
    assert {key for key, server in SERVERS.items() if not server.can_take(LOADS[load])} == absent


def test_outrider_row_of_the_loops_tls_differs_in_that_alone() -> None:
    launch = Launch("apps:plaintext", Address(8123))
    own = SERVERS["outrider-loop-tls"].command(launch)
    assert own == ["env", "OUTRIDER_FAST_TLS=false", *SERVERS["outrider"].command(launch)]


def test_outrider_runs_under_gunicorn() -> None:
    command = SERVERS["outrider"].command(Launch("apps:plaintext", Address(8123)))
    assert command[1:6] == ["-m", "gunicorn", "apps:plaintext", "-w", "1"]
    assert command[-2:] == ["-k", "outrider.UvicornWorker"]
