"""The control socket: HTTP/1.1 on a unix socket that only its owner and root may talk to, served by our own server.

The directory is private, the socket has mode 0600 from the moment it exists, and the peer's credentials are looked
at for each connection. While a supervisor binds it holds a lock on the directory, so of two that start at once under
one name one wins, and the other is told who runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from outrider.errors import ConfigurationError
from outrider.runtime import ASGIApp, Log
from outrider_supervisor.embedded_server import EmbeddedServer, RoomySocket
from outrider_supervisor.paths import Directory, socket_in
from outrider_supervisor.unix_sockets import (
    Identity,
    NotASocket,
    identify,
    peer_credentials,
    remove_stale,
    unlink_if_same,
)

BACKLOG = 64
LOCK_PATIENCE = 2.0
"""Seconds to wait for another supervisor that binds in the same directory."""
_LOCK_RETRY = 0.05
LOOK_PERIOD = 10.0
"""Seconds between two looks whether the path of the socket is still there."""
_PRIVATE_UMASK = 0o177


class OwnersSocket(RoomySocket):
    """A listening unix socket that lets in its own user and root."""

    def admit(self, connection: socket.socket) -> None:
        """Close a stranger's connection.

        Raises:
            ConnectionAbortedError: it was one. The server takes it as one that has gone.
        """
        _, uid, _ = peer_credentials(connection)
        if uid not in (0, os.geteuid()):
            connection.close()
            raise ConnectionAbortedError(errno.ECONNABORTED, f"uid {uid} may not use the control socket")


class ControlServer:
    """Serves `app` on the control socket of one instance, within the running loop."""

    def __init__(
        self,
        directory: Directory,
        name: str,
        app: ASGIApp,
        log: Log,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            directory: where, the first of `paths.directories`.
            name: of the instance.
            app: an ASGI application without a lifespan.
            log: of the server.
            pause: waits for so many seconds.

        Raises:
            ConfigurationError: an instance can't have this name there.
        """
        self.path = socket_in(directory, name)
        self._directory = directory
        self._name = name
        self._log = log
        self._pause = pause
        self._socket: socket.socket | None = None
        self._identity: Identity | None = None
        self._server = EmbeddedServer(app, log, "control socket", OwnersSocket)
        self._next_look: asyncio.TimerHandle | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._problem = ""

    async def start(self) -> None:
        """Bind, unless the socket is open already (`from_state`, `suspend`), and serve.

        From now on a path that is removed, such as by a cleaner of /tmp, is made again.

        Raises:
            ConfigurationError: another supervisor of this name runs, or the socket can't be made here.
        """
        if self._socket is None:
            self._socket, self._identity = await self._bind()
        self._server.start(self._socket)
        self._look_later()

    async def suspend(self) -> None:
        """Finish the responses that have begun (at most `graceful_timeout` of `CONFIG`) and accept no more.

        Who connects from now on waits in the queue, for the next `start` here or in the program that replaces this
        one (`to_state`).
        """
        await self._stop_looking()
        await self._server.stop()

    async def close(self) -> None:
        """Finish the responses that have begun, then remove the socket, unless it is another's by now."""
        await self._stop_looking()
        # Nobody shall find it, and wait for an answer, while the last ones are given.
        unlink_if_same(self.path, self._identity)
        await self._server.stop()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # -- a path that is gone

    def _look_later(self) -> None:
        self._next_look = asyncio.get_running_loop().call_later(LOOK_PERIOD, self._look)

    async def _stop_looking(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.wait({self._restoring})

    def _look(self) -> None:
        self._look_later()
        is_lost = identify(self.path) != self._identity
        # A client whose command is carried out is left in peace: there will be another look.
        if is_lost and not self._server.is_changing_something and (self._restoring is None or self._restoring.done()):
            self._restoring = asyncio.get_running_loop().create_task(self._restore(), name="control socket, once more")

    async def _restore(self) -> None:
        """Bind the path again, and serve there; what fails is told once, and tried again with the next look."""
        try:
            bound, identity = await self._bind()
        except ConfigurationError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                self._log.warning("%s was removed, and commands do not reach this supervisor: %s", self.path, error)
            return
        before, self._socket, self._identity = self._socket, bound, identity
        if before is not None:
            before.close()  # the server has a copy
        await self._server.stop()
        self._server.start(bound)
        self._problem = ""
        self._log.warning("%s was removed, and has been made again", self.path)

    # -- over an execve

    def to_state(self) -> dict[str, Any]:
        """What `from_state` needs in the program that replaces this one; plain data for JSON.

        Raises:
            RuntimeError: it has not been started.
        """
        if self._socket is None:
            raise RuntimeError("the control socket is not open")
        return {
            "directory": str(self._directory.path),
            "managed": self._directory.managed,
            "name": self._name,
            "descriptor": self._socket.fileno(),
            "identity": self._identity,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], app: ASGIApp, log: Log) -> ControlServer:
        """Take over the control socket of the program that this one replaces; it is close-on-exec again.

        Raises:
            ConfigurationError: the descriptor is no socket.
        """
        server = cls(Directory(Path(state["directory"]), state["managed"]), state["name"], app, log)
        try:
            server._socket = socket.socket(fileno=state["descriptor"])
            server._socket.set_inheritable(False)
        except OSError as error:
            raise ConfigurationError(f"control socket: descriptor {state['descriptor']}: {error.strerror}") from error
        server._identity = tuple(state["identity"]) if state["identity"] else None
        return server

    def set_inheritable(self, inheritable: bool) -> None:
        """Let the socket survive an execve(2), or not any more."""
        if self._socket is not None:
            self._socket.set_inheritable(inheritable)

    # -- binding

    async def _bind(self) -> tuple[socket.socket, Identity | None]:
        descriptor = self._directory.open(os.geteuid())
        try:
            await self._lock(descriptor)
            return self._bind_alone()
        finally:
            os.close(descriptor)  # and unlock

    async def _lock(self, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if loop.time() >= deadline:
                    raise ConfigurationError(
                        f"control socket: another process holds the lock on {self._directory.path}; try again"
                    ) from None
                await self._pause(_LOCK_RETRY)
            else:
                return

    def _bind_alone(self) -> tuple[socket.socket, Identity | None]:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            owner = remove_stale(self.path)
            if owner is not None:
                who = f" (pid {owner})" if owner else ""
                raise ConfigurationError(  # noqa: TRY301  # the socket is closed below
                    f"another supervisor named {self._name} is running{who}; stop it, or choose another --name"
                )
            with _umask(_PRIVATE_UMASK):
                sock.bind(str(self.path))
            identity = identify(self.path)
            sock.listen(BACKLOG)
        except NotASocket as error:
            sock.close()
            raise ConfigurationError(
                f"control socket: {self.path} exists and is no socket; remove it, or choose another --name"
            ) from error
        except OSError as error:
            sock.close()
            raise ConfigurationError(f"control socket: can't bind {self.path} ({error.strerror})") from error
        except ConfigurationError:
            sock.close()
            raise
        return sock, identity


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
