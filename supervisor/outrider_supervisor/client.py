"""The client of the control socket: blocking, with the standard library alone."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outrider_supervisor.control_commands import ALIVE_PERIOD, JSON, LINES, PREFIX, STATUS, Command, encode

ANSWER_TIMEOUT = 10.0
"""Seconds within which a supervisor accepts a connection, and answers or begins to."""
SILENCE = 3 * ALIVE_PERIOD
"""Seconds without a line, an empty one included, after which the supervisor of an operation is taken to hang."""
_TIMEVAL = struct.Struct("@ll")


class ClientError(RuntimeError):
    """A command could not be carried out; the message is one sentence that says why and what to do."""


class ControlClient:
    """Talks to the supervisor behind `path`."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        """Of the instance."""
        self._path = path

    def status(self) -> dict[str, Any]:
        """What the supervisor knows of itself.

        Raises:
            ClientError: it does not answer, or no supervisor does.
        """
        with self._exchange("GET", PREFIX + STATUS, None, JSON) as (_, response):
            try:
                status: dict[str, Any] = json.loads(response.read())
            except TimeoutError as error:
                raise self._silent(ANSWER_TIMEOUT) from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise self._went_away() from error
        return status

    def run(self, command: Command) -> Iterator[dict[str, Any]]:
        """Have a command carried out: its lines as they come, the last of them the outcome (it has "ok").

        Raises:
            ClientError: it was refused, no supervisor answers, or it went away or fell silent in the middle.
        """
        path, body = encode(command)
        with self._exchange("POST", path, body, LINES) as (channel, response):
            channel.settimeout(SILENCE)  # an operation takes as long as it takes, but it is heard of
            while True:
                try:
                    line = response.readline()
                    if line == b"\n":
                        continue
                    content = json.loads(line)
                except TimeoutError as error:
                    raise self._silent(SILENCE) from error
                except (OSError, http.client.HTTPException, ValueError) as error:
                    raise self._went_away() from error
                yield content
                if "ok" in content:
                    return

    @contextlib.contextmanager
    def _exchange(
        self, method: str, path: str, body: bytes | None, content_type: bytes
    ) -> Iterator[tuple[socket.socket, http.client.HTTPResponse]]:
        with contextlib.ExitStack() as opened:
            connection = _UnixConnection(self._path)
            opened.callback(connection.close)
            try:
                connection.connect()
            except OSError as error:
                raise self._unreachable(error) from error
            try:
                connection.request(method, path, body, {"content-type": "application/json"} if body else {})
                response = opened.enter_context(connection.getresponse())
            except TimeoutError as error:
                raise self._silent(ANSWER_TIMEOUT) from error
            except OSError as error:  # http.client.RemoteDisconnected is such
                raise self._went_away() from error
            except http.client.HTTPException as error:
                raise self._stranger() from error
            self._check(response, content_type)
            yield connection.channel, response

    def _check(self, response: http.client.HTTPResponse, content_type: bytes) -> None:
        found = (response.getheader("content-type") or "").encode()
        if response.status == http.client.OK and found == content_type:
            return
        if found == JSON:
            try:
                error = json.loads(response.read())["error"]
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
                raise self._stranger() from None
            raise ClientError(f"the supervisor named {self.name} refused: {error}")
        if response.status == http.client.INTERNAL_SERVER_ERROR and response.getheader("server") == "outrider":
            raise ClientError(f"the supervisor named {self.name} failed to answer; its log says why")
        raise self._stranger()

    # -- what went wrong

    def _unreachable(self, error: OSError) -> ClientError:
        start = f"start one with `outrider run --name {self.name} ...`"
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return ClientError(f"no supervisor named {self.name} runs here (no socket at {self._path}); {start}")
        if isinstance(error, ConnectionRefusedError):
            return ClientError(
                f"no supervisor named {self.name} runs any more (nobody listens at {self._path}, which one that was "
                f"killed has left); {start}"
            )
        if isinstance(error, PermissionError):
            return ClientError(
                f"the socket {self._path} belongs to {_owner_of(self._path)}: run this as that user, or as root"
            )
        if isinstance(error, BlockingIOError | TimeoutError):
            return self._silent(ANSWER_TIMEOUT)
        return ClientError(f"can't connect to {self._path} ({error.strerror or error})")

    def _silent(self, seconds: float) -> ClientError:
        return ClientError(
            f"the supervisor named {self.name} does not answer ({self._path}, {seconds:g} s); its process hangs or "
            "is stopped (a command that it was given may be carried out when it goes on)"
        )

    def _went_away(self) -> ClientError:
        return ClientError(
            f"the supervisor named {self.name} went away before it had answered; its log and `outrider status` "
            "say what became of it"
        )

    def _stranger(self) -> ClientError:
        return ClientError(f"it is not a supervisor of this version of Outrider that answers at {self._path}")


class _UnixConnection(http.client.HTTPConnection):
    """http.client over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """http.client: open the connection."""
        # Kept apart: http.client lets go of `sock` when the response is to be the last one.
        self.sock = self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The time limit of connect(2) itself; with settimeout() a full queue would be an error at once.
        seconds = int(ANSWER_TIMEOUT)
        limit = _TIMEVAL.pack(seconds, int((ANSWER_TIMEOUT - seconds) * 1_000_000))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self.sock.connect(os.fspath(self._path))
        self.sock.settimeout(ANSWER_TIMEOUT)


def _owner_of(path: Path) -> str:
    try:
        uid = path.lstat().st_uid
    except OSError:
        return "another user"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
