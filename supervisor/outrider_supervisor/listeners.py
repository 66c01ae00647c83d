"""The listening sockets of a service: bound or inherited once, kept over every reload, and never accepted on here.

As in gunicorn, descriptors that are handed over win: with systemd's socket activation (sd_listen_fds(3)) or `fd://`
in the configuration, the addresses beside them are not bound.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from outrider.errors import ConfigurationError
from outrider_supervisor import binding
from outrider_supervisor.accept_backlog import count_waiting
from outrider_supervisor.binding import Listener
from outrider_supervisor.service import Address, Service
from outrider_supervisor.text_format import format_address
from outrider_supervisor.unix_sockets import identify

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""
START_PATIENCE = 5.0
"""Seconds for which the first start waits for an address that is in use: its last owner may just be going."""
RETRY = 0.25
_DEFAULT_BIND: Address = ("127.0.0.1", 8000)
_ALL_HOSTS = {"", "0.0.0.0", "::"}  # noqa: S104
_STORE_PREFIX = "outrider."
_LONGEST_STORE_NAME = 255
_MOST_DIGITS = 6  # of LISTEN_FDS: no process has more descriptors


class Listeners:
    """The open listeners by their address.

    A listener that a service no longer names stays open until `keep_only`: while a reload can still be rolled back.
    """

    def __init__(
        self, note: Callable[[str], None], pause: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        """Begin without a listener.

        Args:
            note: takes a sentence that the user should know, for the log.
            pause: waits for so many seconds.
        """
        self._note = note
        self._pause = pause
        self._open: dict[Address, Listener] = {}
        self._adopted: list[int] = []
        self._has_begun = False
        self._ignored: tuple[Address, ...] = ()

    # -- opening

    def adopt(
        self, environ: MutableMapping[str, str], pid: int | None = None, first: int = FIRST_DESCRIPTOR
    ) -> list[str]:
        """Take the sockets that a service manager hands over, and remove its variables from `environ`.

        Listeners of ours that it only kept for us (see `stored`) are the binds they were, and no reason to ignore
        others.

        Args:
            environ: with LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES.
            pid: of this process.
            first: number of the first descriptor.

        Returns:
            The names of those which were kept for us in vain: nobody can reach them, and they were closed.

        Raises:
            ConfigurationError: LISTEN_FDS is no number, or a descriptor is not a stream socket.
        """
        count, meant_for = environ.get("LISTEN_FDS", ""), environ.get("LISTEN_PID", "")
        if not count or meant_for != str(os.getpid() if pid is None else pid):
            return []
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        for variable in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
            environ.pop(variable, None)
        if not (count.isascii() and count.isdigit() and len(count) <= _MOST_DIGITS):
            raise ConfigurationError(f"LISTEN_FDS={count}: it must be the number of sockets handed over")
        descriptors = range(first, first + int(count))
        lost = []
        for number, name in zip(descriptors, names + [""] * len(descriptors), strict=False):
            listener = binding.inherit(number, f"LISTEN_FDS, descriptor {number}")
            address = _stored_address(name)
            if address is None:
                self._adopted.append(number)
                self._open[number] = listener
            elif _restore(listener, address):
                self._open[address] = listener
            else:
                listener.close(unlink=False)
                lost.append(name)
        return lost

    async def open(self, service: Service, *, patience: float = 0.0) -> list[socket.socket]:
        """Open what the service names and is not open, and have all of it listen with the service's backlog.

        Args:
            service: what is wanted.
            patience: seconds to wait for an address that is in use, `START_PATIENCE` at the first start.

        Returns:
            The sockets in the order of `service.addresses`, or of the descriptors that win over them.

        Raises:
            ConfigurationError: one cannot be opened. Everything is as before then.
        """
        wanted = self._wanted(service)
        for address in wanted:
            if wanted.count(address) > 1:
                raise ConfigurationError(f"bind: {describe(address)} is named twice; name it once")
        self._tell_ignored(service, wanted)
        deadline = asyncio.get_running_loop().time() + patience
        fresh: dict[Address, Listener] = {}
        try:
            for address in wanted:
                if address not in self._open:
                    fresh[address] = await self._open_one(address, service, deadline)
        except BaseException:
            for listener in fresh.values():
                listener.close(unlink=True)
            raise
        self._has_begun = True
        self._open.update(fresh)
        for address in wanted:
            self._open[address].listen(service.backlog)
        return self.sockets(service)

    def sockets(self, service: Service) -> list[socket.socket]:
        """What `open` has returned for the service: to start one more master of it, after a reload of another too.

        Raises:
            ConfigurationError: one of its listeners is not open (any more).
        """
        wanted = self._wanted(service)
        for address in wanted:
            if address not in self._open:
                raise ConfigurationError(f"bind: {describe(address)} is not open")
        return [self._open[address].sock for address in wanted]

    def _wanted(self, service: Service) -> list[Address]:
        descriptors: list[Address] = [each for each in service.addresses if isinstance(each, int)]
        descriptors += [each for each in self._adopted if each not in descriptors]
        return descriptors or [_absolute(each, service.directory) for each in service.addresses]

    def _tell_ignored(self, service: Service, wanted: list[Address]) -> None:
        ignored: tuple[Address, ...] = ()
        if any(isinstance(each, int) for each in wanted):
            # The default stands there when the user has named nothing.
            ignored = tuple(each for each in service.addresses if not isinstance(each, int) and each != _DEFAULT_BIND)
        if ignored and ignored != self._ignored:
            names = ", ".join(describe(each) for each in ignored)
            self._note(f"bind: {names} not opened: the sockets that were handed over as descriptors are served instead")
        self._ignored = ignored

    async def _open_one(self, address: Address, service: Service, deadline: float) -> Listener:
        if isinstance(address, int):
            if self._has_begun:
                raise ConfigurationError(
                    f"bind: fd://{address} can't be opened by a reload: descriptors are handed over at the start; "
                    "stop the supervisor and start it with this bind"
                )
            return binding.inherit(address, f"bind: fd://{address}")
        has_told = False
        while True:
            try:
                return binding.bind(address, service)
            except binding.InUseError as error:
                self._refuse_if_ours(address)
                if asyncio.get_running_loop().time() >= deadline:
                    raise
                if not has_told:
                    self._note(f"{error}; waiting for it to be free")
                    has_told = True
            await self._pause(RETRY)

    def _refuse_if_ours(self, address: Address) -> None:
        """Say so where what is in the way is a listener of this service: on all hosts for one, or the reverse."""
        for listener in self._open.values():
            bound = listener.sock.getsockname()
            if not isinstance(address, tuple) or not isinstance(bound, tuple) or bound[1] != address[1]:
                continue
            if {bound[0], address[0]} & _ALL_HOSTS:
                raise ConfigurationError(
                    f"bind: {describe(address)} can't be opened while this service has {describe(bound)}: "
                    "restart it with this bind, or choose another port"
                )

    # -- closing

    def keep_only(self, service: Service | None) -> None:
        """Close our copies of the listeners that `service` does not name, and remove the paths we bound.

        With None it is all of them, but for the paths of those handed over: see `close_all`. What is in the queue of
        a closed listener is still taken by the workers that have it, so it is to be called before they retire.
        """
        if service is None:
            self.close_all()
            return
        wanted = self._wanted(service)
        for address in [each for each in self._open if each not in wanted]:
            self._open.pop(address).close(unlink=True)

    def close_all(self, *, unlink: bool = True) -> None:
        """Close our copies of all listeners; with `unlink` remove the paths we bound and nobody else has since."""
        for listener in self._open.values():
            listener.close(unlink=unlink)
        self._open.clear()
        self._adopted.clear()

    # -- looking

    def describe(self, address: Address) -> str:
        """Name an address for people; one that is open with what it is really bound to, such as a port for port 0."""
        listener = self._open.get(address)
        if listener is None:
            return describe(address)
        name = describe(listener.sock.getsockname())
        return f"fd://{address} ({name})" if isinstance(address, int) else name

    def descriptions(self) -> list[str]:
        """All open listeners, named for people."""
        return [self.describe(address) for address in self._open]

    def lost(self) -> set[str]:
        """Those that nobody can reach any more, named for people: somebody has removed the path, or bound it anew."""
        return {
            self.describe(address)
            for address, each in self._open.items()
            if each.identity is not None and identify(each.path) != each.identity
        }

    def backlog(self) -> int | None:
        """How many connections wait to be accepted; None if the kernel does not say so."""
        return count_waiting(listener.sock for listener in self._open.values())

    def stored(self) -> dict[str, socket.socket]:
        """The listeners that a service manager may keep for the next start (`Notifier.store`), by their name there.

        Not among them are those that it has handed over itself, and one whose name it would not take.
        """
        ours = {address: each.sock for address, each in self._open.items() if not isinstance(address, int)}
        named = {_store_name(address): sock for address, sock in ours.items()}
        return {name: sock for name, sock in named.items() if len(name) <= _LONGEST_STORE_NAME}

    # -- over an execve

    def to_state(self) -> dict[str, Any]:
        """What `from_state` needs in the program that replaces this one; plain data for JSON."""
        return {
            "adopted": self._adopted,
            "open": [{"address": address, **listener.to_state()} for address, listener in self._open.items()],
        }

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Any],
        note: Callable[[str], None],
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> Listeners:
        """Take over the listeners of the program that this one replaces; they are close-on-exec again.

        Raises:
            ConfigurationError: a descriptor is not what it is said to be.
        """
        listeners = cls(note, pause)
        listeners._adopted = list(state["adopted"])
        for each in state["open"]:
            address = tuple(each["address"]) if isinstance(each["address"], list) else each["address"]
            listeners._open[address] = Listener.from_state(each, f"listener {describe(address)} of the last supervisor")
        listeners._has_begun = True
        return listeners

    def set_inheritable(self, inheritable: bool) -> None:
        """Let the listeners survive an execve(2), or not any more."""
        for listener in self._open.values():
            listener.sock.set_inheritable(inheritable)


def describe(address: Address | bytes | tuple[Any, ...]) -> str:
    """Name an address, as gunicorn or as `getsockname` has it, for people: what `bind` would take for it."""
    if isinstance(address, tuple):
        host, port = address[:2]  # of an IPv6 socket there are four
        return format_address((host, port))
    return format_address(os.fsdecode(address) if isinstance(address, bytes) else address)


def _absolute(address: Address, directory: str) -> Address:
    """A relative path is one below the directory of the service (chdir), which is not the supervisor's."""
    if isinstance(address, str) and not address.startswith("\0"):
        return str(Path(directory, address))
    return address


def _store_name(address: Address) -> str:
    # FDNAME takes printable ASCII characters, and no colon.
    text = json.dumps(address, ensure_ascii=False).encode("utf-8", "surrogateescape")
    return _STORE_PREFIX + base64.urlsafe_b64encode(text).decode().rstrip("=")


def _stored_address(name: str) -> Address | None:
    if not name.startswith(_STORE_PREFIX):
        return None
    text = name.removeprefix(_STORE_PREFIX)
    try:
        address = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8", "surrogateescape"))
    except ValueError:
        return None
    return tuple(address) if isinstance(address, list) else address


def _restore(listener: Listener, address: Address) -> bool:
    """Make a stored listener ours again; False if its path is gone, so that no client can reach it."""
    listener.backlog = 0  # as configured now
    if isinstance(address, str) and not address.startswith("\0"):
        listener.path = address
        listener.identity = identify(address)
        return listener.identity is not None
    return True
