"""A service manager as a service sees it: it hears what it is told, keeps descriptors, starts it again with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from outrider_testing.launchers import as_systemd
from outrider_testing.outrider_process import OutriderProcess

_MOST_BYTES = 8192
_MOST_DESCRIPTORS = 8


@dataclass(frozen=True, slots=True)
class Notification:
    """One datagram of sd_notify(3)."""

    fields: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name, "")


class ServiceManager:
    """Listens on a notification socket. `close` gives back what it keeps."""

    def __init__(self) -> None:
        # The path of a socket is short (unix(7)).
        self._directory = Path(tempfile.mkdtemp(prefix="manager-"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._directory / "notify"))
        self._socket.setblocking(False)
        self._heard: list[Notification] = []
        self._store: dict[str, int] = {}

    def environment(self, watchdog: float = 0.0) -> dict[str, str]:
        """What a service is started with; `watchdog` is in seconds."""
        found = {"NOTIFY_SOCKET": str(self._socket.getsockname())}
        return found | ({"WATCHDOG_USEC": str(int(watchdog * 1_000_000))} if watchdog else {})

    @property
    def heard(self) -> list[Notification]:
        """All it was told until now."""
        self._listen()
        return self._heard

    @property
    def store(self) -> dict[str, int]:
        """The descriptors that it keeps, by their names."""
        self._listen()
        return self._store

    def _listen(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, _MOST_BYTES, _MOST_DESCRIPTORS)
            except BlockingIOError:
                return
            said = Notification(dict(line.split("=", 1) for line in data.decode().splitlines()))
            self._heard.append(said)
            self._keep(said, descriptors)

    def _keep(self, said: Notification, descriptors: list[int]) -> None:
        if said["FDSTORE"]:
            (descriptor,) = descriptors
            assert said["FDNAME"] not in self._store, f"{said['FDNAME']} is stored twice"
            self._store[said["FDNAME"]] = descriptor
        elif said["FDSTOREREMOVE"]:
            os.close(self._store.pop(said["FDNAME"]))

    def all_of(self, name: str) -> list[str]:
        """Every value that a field has had."""
        return [said[name] for said in self.heard if said[name]]

    @property
    def status(self) -> str:
        """The latest line for people."""
        return next(reversed(self.all_of("STATUS")), "")

    @property
    def states(self) -> list[str]:
        """READY, RELOADING and STOPPING, in the order in which they were told."""
        names = ("READY", "RELOADING", "STOPPING")
        return [name for said in self.heard for name in names if said[name]]

    def start_again(self, server: OutriderProcess) -> None:
        """Start a service that is gone, with what was kept for it (sd_listen_fds(3))."""
        descriptors = tuple(self.store.values())
        server._command[:0] = as_systemd(*descriptors)
        server._environ["LISTEN_FDNAMES"] = ":".join(self.store)
        server._pass_fds = descriptors
        server.start()

    def close(self) -> None:
        """Keep nothing, hear nothing."""
        with contextlib.closing(self._socket):
            self._listen()  # for the descriptors that are still on their way
        for descriptor in self._store.values():
            os.close(descriptor)
        shutil.rmtree(self._directory)
