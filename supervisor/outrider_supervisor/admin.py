"""The admin endpoint as a reload changes it: what the new configuration names is opened first, and closed last.

Where a reload only changes the token, it counts from the commit on. The listener outlives an upgrade of the supervisor.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from outrider.errors import ConfigurationError
from outrider_supervisor import binding
from outrider_supervisor.actions import Level
from outrider_supervisor.admin_address import is_private, parse_address
from outrider_supervisor.admin_app import AdminApp
from outrider_supervisor.binding import Listener
from outrider_supervisor.embedded_server import EmbeddedServer
from outrider_supervisor.event_feed import EventFeed
from outrider_supervisor.journal import Journal
from outrider_supervisor.listeners import RETRY, describe
from outrider_supervisor.resources import Handler
from outrider_supervisor.service import Service

BACKLOG = 64
UMASK = 0o117
"""A unix socket is for the supervisor's user and group."""


class _Endpoint:
    """One address that is served."""

    def __init__(self, bind: str, listener: Listener, app: AdminApp, server: EmbeddedServer) -> None:
        self.bind = bind
        self.listener = listener
        self.app = app
        self.server = server

    @property
    def address(self) -> str:
        """For people: with the port that it really has."""
        name = describe(self.listener.sock.getsockname())
        return name if name.startswith("unix:") else f"http://{name}"


class Admin:
    """None, or one endpoint; two while a reload to another address goes on."""

    def __init__(
        self,
        handler: Handler,
        feed: EventFeed,
        journal: Journal,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Begin without one; `pause` waits for so many seconds."""
        self._handler = handler
        self._feed = feed
        self._journal = journal
        self._pause = pause
        self._open: dict[str, _Endpoint] = {}
        self._closing = set[asyncio.Task[None]]()
        self._kept: Service | None = None
        """What `keep_only` was told last, or what came first."""

    @property
    def addresses(self) -> list[str]:
        """Where it is served, for people."""
        return [each.address for each in self._open.values()]

    async def open(self, service: Service, patience: float = 0.0) -> None:
        """Serve at the address that the service names, unless that is open already.

        Args:
            service: what is wanted.
            patience: seconds to wait for an address that is in use.

        Raises:
            ConfigurationError: it cannot be opened; everything is as before.
        """
        bind = _key(service)
        self._kept = self._kept or service
        if bind and bind not in self._open:
            listener = await self._bind(bind, service, asyncio.get_running_loop().time() + patience)
            self._serve(bind, listener, service.admin_token)
            self._journal.write(Level.INFO, f"admin endpoint opened: {self._open[bind].address}")

    async def _bind(self, bind: str, service: Service, deadline: float) -> Listener:
        ours = dataclasses.replace(service, backlog=BACKLOG, umask=UMASK, uid=-1, gid=-1)
        while True:
            try:
                return binding.bind(parse_address(bind), ours)
            except binding.InUseError as error:
                if asyncio.get_running_loop().time() >= deadline:
                    raise ConfigurationError(f"admin_{error}") from error
            except ConfigurationError as error:
                raise ConfigurationError(f"admin_{error}") from error
            await self._pause(RETRY)

    def _serve(self, bind: str, listener: Listener, token: str) -> None:
        only_loopback = isinstance(parse_address(bind), tuple) and is_private(bind)
        app = AdminApp(self._handler, self._feed, token, only_loopback=only_loopback)
        server = EmbeddedServer(app, self._journal.logger, "admin endpoint")
        server.start(listener.sock)
        self._open[bind] = _Endpoint(bind, listener, app, server)

    def keep_only(self, service: Service) -> None:
        """Close what the service does not name, and have the rest ask for its token."""
        self._kept = service
        wanted = _key(service)
        for bind in [each for each in self._open if each != wanted]:
            self._journal.write(Level.INFO, f"admin endpoint closed: {self._open[bind].address}")
            task = asyncio.get_running_loop().create_task(self._close(self._open.pop(bind)))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for endpoint in self._open.values():
            endpoint.app.token = service.admin_token

    def go_back(self) -> None:
        """Close what was opened since: the service that named it is not to be."""
        if self._kept is not None:
            self.keep_only(self._kept)

    async def _close(self, endpoint: _Endpoint) -> None:
        await endpoint.server.stop()
        endpoint.listener.close(unlink=True)

    async def close(self) -> None:
        """End all responses, event streams at once, and close the endpoint."""
        await asyncio.gather(*self._closing, *map(self._close, self._open.values()))
        self._open.clear()

    # -- over an execve

    async def suspend(self) -> None:
        """End all responses and accept no more. Who connects from now on waits in the queue."""
        await asyncio.gather(*self._closing, *(each.server.stop() for each in self._open.values()))

    def go_on(self) -> None:
        """Serve again after `suspend`."""
        for each in self._open.values():
            each.server.start(each.listener.sock)

    def set_inheritable(self, inheritable: bool) -> None:
        """Let the listener survive an execve(2), or not any more."""
        for each in self._open.values():
            each.listener.sock.set_inheritable(inheritable)

    def to_state(self) -> list[dict[str, Any]]:
        """What `take_state` needs in the supervisor that replaces this one."""
        return [{"bind": each.bind, **each.listener.to_state()} for each in self._open.values()]

    def take_state(self, state: list[Mapping[str, Any]], service: Service) -> None:
        """Serve where another supervisor did, as this service wants it.

        Raises:
            ConfigurationError: a descriptor is not what it is said to be.
        """
        for each in state:
            listener = Listener.from_state(each, "the admin endpoint of the last supervisor")
            self._serve(each["bind"], listener, service.admin_token)
        self._kept = service


def _key(service: Service) -> str:
    """The address as it was given, with a path that does not depend on a directory."""
    if not service.admin_bind:
        return ""
    address = parse_address(service.admin_bind)
    return f"unix:{Path(service.directory, address)}" if isinstance(address, str) else service.admin_bind
