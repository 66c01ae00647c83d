"""The client of the control socket against supervisors that do not behave."""

from __future__ import annotations

import os
import pwd
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from outrider_supervisor import client as client_module
from outrider_supervisor.client import ClientError, ControlClient
from outrider_supervisor.control_commands import Reload, Scale

Answer = Callable[[bytes], None]

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
LINES_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
)


class Impostor:
    """Answers the next connection with given bytes, whatever it asks, and closes, or is silent with `is_held`."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(path))
        self.sock.listen(1)
        self.request = b""
        self._threads: list[threading.Thread] = []

    def answer(self, data: bytes, *, is_held: bool = False) -> None:
        thread = threading.Thread(target=self._answer, args=(data, is_held))
        thread.start()
        self._threads.append(thread)

    def _answer(self, data: bytes, is_held: bool) -> None:
        connection, _ = self.sock.accept()
        with connection:
            # What is left unread would reset the connection; the body of a command is one small JSON object.
            while not self.request.endswith(b"}" if self.request.startswith(b"POST") else b"\r\n\r\n"):
                self.request += connection.recv(65536)
            connection.sendall(data)
            if is_held:
                connection.recv(1)  # until the client gives up

    def close(self) -> None:
        for thread in self._threads:
            thread.join(5)
        self.sock.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.sock"


@pytest.fixture
def impostor(path: Path) -> Iterator[Impostor]:
    impostor = Impostor(path)
    yield impostor
    impostor.close()


@pytest.fixture
def client(path: Path) -> ControlClient:
    return ControlClient(path)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def refusal(client: ControlClient) -> str:
    with pytest.raises(ClientError) as error:
        client.status()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_socket_means_that_none_runs(client: ControlClient, path: Path) -> None:
    assert refusal(client) == (
        f"no supervisor named shop runs here (no socket at {path}); start one with `outrider run --name shop ...`"
    )


def test_stale_socket_means_that_none_runs_any_more(client: ControlClient, path: Path, impostor: Impostor) -> None:
    impostor.close()
    assert refusal(client).startswith(f"no supervisor named shop runs any more (nobody listens at {path}")


@pytest.mark.usefixtures("impostor")
@pytest.mark.parametrize("owner", ["name", "number", "unknown"])
def test_foreign_socket_names_its_owner(
    client: ControlClient, path: Path, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    def refuse(_sock: object) -> None:
        if owner == "unknown":
            path.unlink()
        raise PermissionError(13, "Permission denied")

    def nameless(_uid: int) -> None:
        raise KeyError

    name = {"name": pwd.getpwuid(os.geteuid()).pw_name, "number": f"uid {os.geteuid()}", "unknown": "another user"}
    if owner == "number":
        monkeypatch.setattr(pwd, "getpwuid", nameless)
    monkeypatch.setattr(client_module._UnixConnection, "connect", refuse)
    assert refusal(client) == f"the socket {path} belongs to {name[owner]}: run this as that user, or as root"


def test_other_failure_to_connect_is_passed_on(tmp_path: Path) -> None:
    assert "AF_UNIX path too long" in refusal(ControlClient(tmp_path / ("x" * 120)))


def test_full_queue_means_a_supervisor_that_does_not_answer(
    client: ControlClient, path: Path, impostor: Impostor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_TIMEOUT", 0.05)
    impostor.sock.listen(0)
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(path))
        assert refusal(client).startswith("the supervisor named shop does not answer (")


@pytest.mark.usefixtures("impostor")
def test_silent_supervisor_is_not_waited_for_without_end(
    client: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_TIMEOUT", 0.05)
    assert refusal(client).startswith("the supervisor named shop does not answer (")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>",
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: application/json\r\n\r\n[]",
        b"HTTP/1.1 500 Internal Server Error\r\nserver: nginx\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\n\r\n{",
    ],
)
def test_something_else_that_answers_is_no_supervisor(
    client: ControlClient, path: Path, impostor: Impostor, answer: bytes
) -> None:
    impostor.answer(answer)
    assert refusal(client) == f"it is not a supervisor of this version of Outrider that answers at {path}"


def test_failure_of_the_supervisor_points_to_its_log(client: ControlClient, impostor: Impostor) -> None:
    impostor.answer(b"HTTP/1.1 500 Internal Server Error\r\nserver: outrider\r\n\r\n")
    assert refusal(client) == "the supervisor named shop failed to answer; its log says why"


def test_refusal_of_the_supervisor_is_passed_on(client: ControlClient, impostor: Impostor) -> None:
    impostor.answer(JSON_HEAD.replace(b"200 OK", b"400 Bad Request") + b'\r\n{"error": "workers is 0"}')
    with pytest.raises(ClientError, match=r"^the supervisor named shop refused: workers is 0$"):
        next(client.run(Scale(1)))
    assert b"POST /v1/scale HTTP/1.1\r\n" in impostor.request


@pytest.mark.parametrize("answer", [b"", JSON_HEAD + b"content-length: 100\r\n\r\n{}", JSON_HEAD + b"\r\n{"])
def test_connection_that_breaks_means_that_it_went_away(
    client: ControlClient, impostor: Impostor, answer: bytes
) -> None:
    impostor.answer(answer)
    assert refusal(client).startswith("the supervisor named shop went away before it had answered")


@pytest.mark.usefixtures("impostor")
def test_connection_that_is_reset_means_that_it_went_away(
    client: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reset(_connection: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(client_module._UnixConnection, "getresponse", reset)
    assert refusal(client).startswith("the supervisor named shop went away")


def test_lines_are_passed_on_as_they_come_until_the_outcome(client: ControlClient, impostor: Impostor) -> None:
    impostor.answer(LINES_HEAD + chunk(b'{"progress": "one"}\n') + chunk(b'{"ok": true}\n') + b"0\r\n\r\n")
    assert list(client.run(Reload())) == [{"progress": "one"}, {"ok": True}]


@pytest.mark.parametrize("end", [b"", b"0\r\n\r\n", chunk(b'{"progr') + b"0\r\n\r\n", b"5\r\n{"])
def test_lines_without_an_outcome_mean_that_it_went_away(client: ControlClient, impostor: Impostor, end: bytes) -> None:
    impostor.answer(LINES_HEAD + chunk(b'{"progress": "one"}\n') + end)
    lines = client.run(Reload())
    assert next(lines) == {"progress": "one"}
    with pytest.raises(ClientError, match="went away"):
        next(lines)


def test_empty_lines_of_a_long_operation_are_passed_over(client: ControlClient, impostor: Impostor) -> None:
    impostor.answer(LINES_HEAD + 3 * chunk(b"\n") + chunk(b'{"ok": true}\n') + b"0\r\n\r\n")
    assert list(client.run(Reload())) == [{"ok": True}]


def test_supervisor_that_falls_silent_in_an_operation_is_not_waited_for_without_end(
    client: ControlClient, path: Path, impostor: Impostor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SILENCE", 0.05)
    impostor.answer(LINES_HEAD + chunk(b'{"progress": "one"}\n'), is_held=True)
    lines = client.run(Reload())
    assert next(lines) == {"progress": "one"}
    with pytest.raises(ClientError) as error:
        next(lines)
    assert str(error.value) == (
        f"the supervisor named shop does not answer ({path}, 0.05 s); its process hangs or is stopped "
        "(a command that it was given may be carried out when it goes on)"
    )


def test_status_that_does_not_end_is_not_waited_for_without_end(
    client: ControlClient, impostor: Impostor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_TIMEOUT", 0.5)
    impostor.answer(JSON_HEAD + b"content-length: 100\r\n\r\n{}", is_held=True)
    assert refusal(client).startswith("the supervisor named shop does not answer (")
