"""Listeners of a supervisor, and sockets beside them."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from outrider_supervisor.listeners import Listeners
from outrider_supervisor.service import Address, Service
from outrider_testing.services import make_service

LOCAL: Address = ("127.0.0.1", 0)
LOCAL6: Address = ("::1", 0)


class ListenerStage:
    """Listeners, and what they say."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.pauses: list[float] = []
        self.during_pause: Callable[[], object] = lambda: None
        self.listeners = Listeners(self.notes.append, self._pause)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.during_pause()

    def open(self, *addresses: Address, patience: float = 0.0, **fields: Any) -> list[socket.socket]:
        """Open those of a service."""
        service = make_service(addresses=addresses, **fields)
        return asyncio.run(self.listeners.open(service, patience=patience))


def service(*addresses: Address) -> Service:
    """A service that listens there."""
    return make_service(addresses=addresses)


def handed_over(*, kind: int = socket.SOCK_STREAM) -> int:
    """A listening socket that belongs to its descriptor alone."""
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        sock.listen(5)
    return sock.detach()


def descriptors() -> list[int]:
    """Those of this process that are open."""
    gc.collect()  # what earlier tests have left would be closed in between
    return sorted(int(each.name) for each in Path("/proc/self/fd").iterdir())


def connects(address: Any) -> bool:
    """Tell whether somebody listens there."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family) as client:
        return client.connect_ex(address) == 0


def environment(count: int, names: str = "", pid: int = 77) -> dict[str, str]:
    """What a service manager says of the sockets that it hands over (sd_listen_fds(3))."""
    return {"LISTEN_FDS": str(count), "LISTEN_PID": str(pid), "LISTEN_FDNAMES": names, "KEY": "value"}
