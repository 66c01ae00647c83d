"""The master's end of the channel to the supervisor, and the rest of what a master is started with."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Mapping

from outrider.errors import ConfigurationError
from outrider.supervised import Supervision, read_supervision
from outrider_supervisor.messages import MOST_BYTES, FromMaster, ToMaster, decode, encode
from outrider_supervisor.reports import REPORTS_FD

SCOREBOARD_FD = "OUTRIDER_SCOREBOARD_FD"
CHANNEL_FD = "OUTRIDER_SUPERVISOR_CHANNEL_FD"
WORKERS = "OUTRIDER_SUPERVISOR_WORKERS"
ROOM_PATIENCE = 30.0
"""Seconds that a message may wait for room. The supervisor always reads: one that does not by then is lost."""


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What the supervisor puts into the environment of a master."""

    supervision: Supervision
    workers: int
    channel: int
    reports: int
    scoreboard: int

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Surroundings:
        """Read it.

        Raises:
            ConfigurationError: something is missing; nobody but the supervisor can start a master.
        """
        supervision = read_supervision(environ)
        numbers = [environ.get(name, "") for name in (WORKERS, CHANNEL_FD, REPORTS_FD, SCOREBOARD_FD)]
        if supervision is None or not all(number.isascii() and number.isdigit() for number in numbers):
            raise ConfigurationError("a master is started by the supervisor alone: use `outrider run`")
        return cls(supervision, *map(int, numbers))

    def keep_private(self) -> None:
        """Keep the descriptors from programs that the application or a hook starts."""
        for descriptor in (self.channel, self.reports, self.scoreboard):
            os.set_inheritable(descriptor, False)


class Channel:
    """Messages in both directions. Once the supervisor is gone, `is_open` is False and sending does nothing."""

    def __init__(self, descriptor: int) -> None:
        """Take the descriptor of a connected SOCK_SEQPACKET socket."""
        self._sock = socket.socket(fileno=descriptor)
        self._sock.settimeout(ROOM_PATIENCE)
        self.is_open = True

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._sock.fileno()

    def send(self, message: FromMaster) -> None:
        """Send; waits for room, but not for ever."""
        if self.is_open:
            try:
                self._sock.send(encode(message))
            except OSError:  # a TimeoutError, too
                self.is_open = False

    def receive(self) -> ToMaster | None:
        """Return the message that is there, or None at the end. Call it when the descriptor is readable.

        Raises:
            ValueError: the datagram is no message of this version.
        """
        try:
            data = self._sock.recv(MOST_BYTES)
        except OSError:
            data = b""
        if not data:
            self.is_open = False
            return None
        message: ToMaster = decode(data)
        return message

    def close(self) -> None:
        """Let go of the descriptor; a worker does that with its copy."""
        self.is_open = False
        self._sock.close()
