"""Telling the service manager how the service is: the datagrams of sd_notify(3).

Nothing here raises or blocks: a service must not suffer from the one who watches it.
"""

from __future__ import annotations

import socket
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto

MOST_WAITING = 64
_MICROSECONDS = 1_000_000


class _Sent(Enum):
    """What became of a datagram."""

    DONE = auto()
    NO_ROOM = auto()
    IN_VAIN = auto()
    """Nobody is there to read it."""


class Notifier:
    """Sends to one notification socket, or to nobody.

    Each method returns whether the service manager has been told: False without one, or when its queue is full. The
    states of the service, and what is to be forgotten, it is told later then: it waits for those.
    """

    def __init__(self, address: str = "", clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Prepare for `address` as NOTIFY_SOCKET has it: a path, or `@` and an abstract name; "" is nobody."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._clock = clock
        self._socket: socket.socket | None = None
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self.watchdog: float | None = None
        """Seconds within which `keep_alive` must be called again (call it twice as often), None without watchdog."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], pid: int | None = None) -> Notifier:
        """Read NOTIFY_SOCKET and WATCHDOG_USEC, which stay there for a supervisor that replaces this one in place.

        Args:
            environ: the environment.
            pid: of this process; a WATCHDOG_PID that names another one switches the watchdog off. None ignores it.
        """
        notifier = cls(environ.get("NOTIFY_SOCKET", ""))
        period = environ.get("WATCHDOG_USEC", "")
        meant_for = environ.get("WATCHDOG_PID", "")
        if period.isascii() and period.isdigit() and int(period) and (pid is None or meant_for in ("", str(pid))):
            notifier.watchdog = int(period) / _MICROSECONDS
        return notifier

    def ready(self, status: str = "") -> bool:
        """The service serves; also the end of `reloading`."""
        return self._send("READY=1", *_status(status), may_wait=True)

    def reloading(self, status: str = "") -> bool:
        """A reload has begun. The time comes in the same datagram, which Type=notify-reload asks for."""
        moment = f"MONOTONIC_USEC={self._clock() // 1000}"
        return self._send("RELOADING=1", moment, *_status(status), may_wait=True)

    def stopping(self, status: str = "") -> bool:
        """The service ends."""
        return self._send("STOPPING=1", *_status(status), may_wait=True)

    def status(self, text: str) -> bool:
        """One line for people: what the service is doing."""
        return self._send(f"STATUS={_one_line(text)}")

    def keep_alive(self) -> bool:
        """Feed the watchdog."""
        return self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> bool:
        """Ask for so many seconds from now on, for the start, reload or stop that is under way."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * _MICROSECONDS)}")

    def store(self, name: str, descriptor: int) -> bool:
        """Have the service manager keep a copy of a descriptor, and hand it back to the next start under `name`."""
        # FDPOLL=0: it is kept when it hangs up, too; a listener is readable, not dead.
        return self._send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptors=[descriptor])

    def forget(self, name: str) -> bool:
        """Have the service manager close what it keeps under `name`."""
        return self._send("FDSTOREREMOVE=1", f"FDNAME={name}", may_wait=True)

    def close(self) -> None:
        """Tell what has waited, and no more."""
        self.flush()
        self._address = ""
        self._waiting.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def flush(self) -> None:
        """Tell what has waited, if there is room now."""
        while self._waiting and self._send_datagram(self._waiting[0], []) is not _Sent.NO_ROOM:
            self._waiting.popleft()

    def _send(self, *lines: str, descriptors: Sequence[int] = (), may_wait: bool = False) -> bool:
        """Send one datagram; one that `may_wait` is sent later if there is no room."""
        message = "\n".join(lines).encode("utf-8", "replace")
        self.flush()
        sent = _Sent.NO_ROOM if self._waiting else self._send_datagram(message, descriptors)
        if sent is _Sent.NO_ROOM and may_wait:
            self._waiting.append(message)
        return sent is _Sent.DONE

    def _send_datagram(self, message: bytes, descriptors: Sequence[int]) -> _Sent:
        if not self._address:
            return _Sent.IN_VAIN
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            if self._socket is None:
                # Python sets close-on-exec.
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
            # Not socket.send_fds, which drops flags and address (CPython 3.11).
            self._socket.sendmsg([message], rights, flags, self._address)
        except BlockingIOError:
            return _Sent.NO_ROOM
        except (OSError, ValueError):  # ValueError: a NUL in a path
            return _Sent.IN_VAIN
        return _Sent.DONE


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={_one_line(text)}",) if text else ()


def _one_line(text: str) -> str:
    return " ".join(text.split())
