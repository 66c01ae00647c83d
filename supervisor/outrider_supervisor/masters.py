"""Masters as processes: how one is started, and the channel to it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from outrider_supervisor import messages
from outrider_supervisor.actions import StartMaster
from outrider_supervisor.events import Event, FromGeneration, MasterExited
from outrider_supervisor.messages import ToMaster
from outrider_supervisor.processes import FIRST_DESCRIPTOR, Children, Process

PREFIX = "OUTRIDER_SUPERVISOR_"
_NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_SEND_BUFFER = 1 << 20
"""Bytes of messages that may wait while the supervisor is busy, if the system allows so many (net.core.wmem_max)."""
_log = logging.getLogger("outrider.supervisor")


class Master:
    """One master process. Whatever it says, and its end, become events."""

    def __init__(
        self,
        number: int,
        process: Process,
        channel: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_event: Callable[[Event], None],
    ) -> None:
        self.number = number
        self.process = process
        self.channel = channel
        self._loop = loop
        self._on_event = on_event
        channel.setblocking(False)
        loop.add_reader(channel, self._read)
        process.watch(self._note_exit)

    def tell(self, message: ToMaster) -> None:
        """Send a message. To a master that is gone it is lost; its end is an event of its own."""
        try:
            self.channel.send(messages.encode(message))
        except BlockingIOError:
            # It has not read for hundreds of messages: it hangs, and is better replaced than waited for.
            self.process.signal(signal.SIGKILL)
        except OSError:
            return

    def close(self) -> None:
        """Forget the process and the channel, neither of which is touched."""
        if self.channel.fileno() >= 0:
            self._loop.remove_reader(self.channel)
            self.channel.close()
        self.process.close()

    def _read(self) -> bool:
        """Take in one message; False when there is none."""
        try:
            data = self.channel.recv(messages.MOST_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self.channel)
            return False
        try:
            message = messages.decode(data)
        except ValueError as error:  # a master of another version, after an upgrade
            _log.warning("generation %d: %s", self.number, error)
        else:
            self._on_event(FromGeneration(self.number, message))
        return True

    def _note_exit(self, how: str, _status: int | None) -> None:
        while self.channel.fileno() >= 0 and self._read():
            pass  # what it said last comes before its end
        self.close()
        self._on_event(MasterExited(self.number, how))


@dataclass(frozen=True, slots=True)
class MasterStarter:
    """What is the same for all masters: the user's command line, and the descriptors they share."""

    argv: Sequence[str]
    environ: Mapping[str, str]
    scoreboard: int
    reports: int
    children: Children

    def start(
        self,
        order: StartMaster,
        listeners: Sequence[socket.socket],
        loop: asyncio.AbstractEventLoop,
        on_event: Callable[[Event], None],
    ) -> Master:
        """Start the master of a generation.

        Raises:
            OSError: there are no processes or descriptors left.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # unix(7): that of the sender counts
        first = FIRST_DESCRIPTOR + len(listeners)
        environ = {name: value for name, value in self.environ.items() if name not in _NOT_INHERITED} | {
            "LISTEN_FDS": str(len(listeners)),
            "OUTRIDER_SCOREBOARD_FD": str(first),
            f"{PREFIX}CHANNEL_FD": str(first + 1),
            f"{PREFIX}REPORTS_FD": str(first + 2),
            f"{PREFIX}PID": str(os.getpid()),
            f"{PREFIX}GENERATION": str(order.number),
            f"{PREFIX}WORKERS": str(order.workers),
        }
        descriptors = [*(each.fileno() for each in listeners), self.scoreboard, theirs.fileno(), self.reports]
        command = [sys.executable, "-P", "-m", "outrider_supervisor.master", *self.argv]
        with theirs:
            try:
                process = self.children.spawn(command, environ, descriptors)
            except OSError:
                ours.close()
                raise
        return Master(order.number, process, ours, loop, on_event)
