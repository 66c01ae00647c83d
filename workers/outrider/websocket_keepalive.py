"""When to ping a client of a WebSocket, and when to take it for gone. Pure: the caller has the clock and the wire."""

from __future__ import annotations

import math
from enum import Enum

FOREVER = math.inf


class Step(Enum):
    """What is to be done now."""

    WAIT = "wait"
    PING = "ping"
    GIVE_UP = "give up"


class KeepAlive:
    """Pings every `interval` seconds; a client of which nothing is heard for `timeout` seconds after one has gone.

    Whatever comes is a sign of life, not only a pong: one may be stuck behind a large message. 0 switches either off.
    `heard` is for the caller to set when something comes.
    """

    __slots__ = ("_interval", "_ping_due", "_pong_due", "_timeout", "heard")

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self._interval = interval or FOREVER
        self._timeout = timeout or FOREVER
        self._ping_due = now + self._interval
        self._pong_due = FOREVER
        self.heard = False

    @property
    def deadline(self) -> float:
        """When to ask `step` next."""
        return min(self._ping_due, self._pong_due)

    def step(self, now: float, *, listens: bool) -> Step:
        """Decide. Without `listens`, nothing can be heard: the server itself does not read at the moment."""
        if now >= self._pong_due:
            if listens and not self.heard:
                return Step.GIVE_UP
            self._pong_due = FOREVER
        if now < self._ping_due:
            return Step.WAIT
        self._ping_due = now + self._interval
        if self._pong_due == FOREVER and listens:
            self.heard = False
            self._pong_due = now + self._timeout
        return Step.PING
