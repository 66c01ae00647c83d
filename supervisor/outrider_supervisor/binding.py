"""Opening one listening socket, as gunicorn would, with errors that say what to do."""

from __future__ import annotations

import errno
import os
import re
import shlex
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from outrider.errors import ConfigurationError
from outrider_supervisor.service import Service
from outrider_supervisor.unix_sockets import MOST_PATH, Identity, NotASocket, identify, remove_stale, unlink_if_same

_MOST_PORT = 0xFFFF
_FIRST_FREE_PORT = 1024
_UNKNOWN_BACKLOG = -1
_OUR_TITLE = re.compile(r"outrider: (?:supervisor|master|worker) \[(.+)\]")


class InUseError(ConfigurationError):
    """Somebody else listens there; that may pass."""


@dataclass(slots=True)
class Listener:
    """One listening socket. `path` and `identity` are those of a path that we have bound ourselves."""

    sock: socket.socket
    path: str = ""
    identity: Identity | None = None
    backlog: int = _UNKNOWN_BACKLOG

    def listen(self, backlog: int) -> None:
        """Listen, with another backlog than before if it has changed.

        One that was handed over and listens already is left as it is, which gunicorn does as well: its owner has
        chosen the backlog, and a second listen(2) may be denied (SELinux).
        """
        if self.backlog == _UNKNOWN_BACKLOG and self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return
        if self.backlog != backlog:
            self.sock.listen(backlog)
            self.backlog = backlog

    def close(self, *, unlink: bool) -> None:
        """Close this process's copy; with `unlink` remove the path first, if it is ours."""
        if unlink:
            unlink_if_same(self.path, self.identity)
        self.sock.close()

    def to_state(self) -> dict[str, Any]:
        """Write it as plain data."""
        return {
            "descriptor": self.sock.fileno(),
            "path": self.path,
            "identity": self.identity,
            "backlog": self.backlog,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], what: str) -> Listener:
        """Read what `to_state` wrote, in the program that has inherited the descriptor.

        Raises:
            ConfigurationError: the descriptor is no socket; `what` names it.
        """
        listener = inherit(state["descriptor"], what)
        listener.path = state["path"]
        listener.identity = tuple(state["identity"]) if state["identity"] else None
        listener.backlog = state["backlog"]
        return listener


def inherit(descriptor: int, what: str) -> Listener:
    """Take over a socket by its descriptor; it is close-on-exec from now on.

    Raises:
        ConfigurationError: it is no bound or listening stream socket; `what` names it.
    """
    sock: socket.socket | None = None
    try:
        problem = "" if stat.S_ISSOCK(os.fstat(descriptor).st_mode) else "it is no socket"
        if not problem:
            sock = socket.socket(fileno=descriptor)
            problem = _unfit(sock)
    except OSError as error:
        problem = (error.strerror or str(error)).lower()
    if problem or sock is None:
        if sock is not None:
            sock.detach()
        raise ConfigurationError(f"{what}: {problem}; allowed is a stream socket that is bound or listens")
    sock.setblocking(False)
    sock.set_inheritable(False)
    return Listener(sock)


def _unfit(sock: socket.socket) -> str:
    if sock.type != socket.SOCK_STREAM:
        return "it is no stream socket"
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return ""
    name = sock.getsockname()
    is_bound = bool(name[1]) if isinstance(name, tuple) else bool(name)
    return "" if is_bound else "it is not bound"


def bind(address: tuple[str, int] | str, service: Service) -> Listener:
    """Open a listening socket at host and port, a path or an abstract name.

    Raises:
        InUseError: somebody else listens there.
        ConfigurationError: it is not possible.
    """
    if isinstance(address, tuple):
        return _bind_tcp(*address, service.backlog)
    if address.startswith("\0"):
        return _bind_abstract(address, service.backlog)
    return _bind_path(address, service)


def _bind_tcp(host: str, port: int, backlog: int) -> Listener:
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not 0 <= port <= _MOST_PORT:
        raise ConfigurationError(f"bind: {name}: the port must be 0 to {_MOST_PORT}")
    try:
        sock = socket.socket(socket.AF_INET6 if _is_ipv6(host) else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            return _finish(sock, backlog)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise _tcp_error(name, host, port, error) from error


def _bind_abstract(address: str, backlog: int) -> Listener:
    name = f"unix:@{address[1:]}"
    _check_length(name, address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(os.fsencode(address))
        return _finish(sock, backlog)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise InUseError(f"bind: {name} is in use; stop who has it, or choose another name") from error
        raise ConfigurationError(f"bind: {name}: {error.strerror}") from error


def _bind_path(path: str, service: Service) -> Listener:
    name = f"unix:{path}"
    _check_length(name, path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener = Listener(sock, path)
    try:
        owner = remove_stale(path)
        if owner is not None:
            raise InUseError(f"bind: {name} is in use{_by(owner)}, or choose another path")
        before = os.umask(service.umask)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        listener.identity = identify(path)
        _chown(path, service)
        _finish(sock, service.backlog)
    except OSError as error:
        listener.close(unlink=True)
        raise _path_error(name, path, error) from error
    except ConfigurationError:
        listener.close(unlink=True)
        raise
    listener.backlog = service.backlog
    return listener


def _chown(path: str, service: Service) -> None:
    try:
        os.chown(path, service.uid, service.gid)
    except OSError as error:
        raise ConfigurationError(
            f"bind: unix:{path} can't be given to user={service.uid}, group={service.gid} ({error.strerror}); "
            "start as root, or leave user and group out"
        ) from error


def _finish(sock: socket.socket, backlog: int) -> Listener:
    sock.setblocking(False)
    sock.listen(backlog)
    return Listener(sock, backlog=backlog)


def _check_length(name: str, address: str) -> None:
    length = len(os.fsencode(address))
    if length > MOST_PATH:
        raise ConfigurationError(f"bind: {name} has {length} bytes; a unix socket's path may have {MOST_PATH}")


def _is_ipv6(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, host)
    except (OSError, ValueError):
        return False
    return True


def _tcp_error(name: str, host: str, port: int, error: OSError) -> ConfigurationError:
    if isinstance(error, socket.gaierror):
        return ConfigurationError(f"bind: {name}: the host {host!r} is not known ({error.strerror})")
    if error.errno == errno.EADDRINUSE:
        return InUseError(f"bind: {name} is in use{_by(_listener_on(port))}, or choose another port")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigurationError(f"bind: {name}: this machine has no address {host}; choose one that it has")
    if isinstance(error, PermissionError) and port < _FIRST_FREE_PORT:
        return ConfigurationError(
            f"bind: {name}: permission denied; a port below {_FIRST_FREE_PORT} needs root or CAP_NET_BIND_SERVICE"
        )
    return ConfigurationError(f"bind: {name}: {error.strerror}")


def _path_error(name: str, path: str, error: OSError) -> ConfigurationError:
    directory = Path(path).parent
    if isinstance(error, NotASocket):
        return ConfigurationError(f"bind: {name}: {path} exists and is no socket; remove it, or choose another path")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ConfigurationError(f"bind: {name}: there is no directory {directory}; create it first")
    if isinstance(error, PermissionError):
        return ConfigurationError(
            f"bind: {name}: permission denied; uid {os.geteuid()} needs write access to {directory} "
            "and to a socket that is there already"
        )
    if error.errno == errno.EADDRINUSE:  # it came into being just now
        return InUseError(f"bind: {name} is in use; stop who has it, or choose another path")
    return ConfigurationError(f"bind: {name}: {error.strerror}")


def _listener_on(port: int) -> int:
    """The process that listens on a TCP port, 0 if we may not know."""
    try:
        found = psutil.net_connections("tcp")
    except (OSError, psutil.Error):
        return 0
    pids = (each.pid for each in found if each.status == psutil.CONN_LISTEN and each.laddr[1:] == (port,))
    return next(filter(None, pids), 0)


def _by(pid: int) -> str:
    """Whom, and how to stop that."""
    if not pid:
        return "; stop that"
    try:
        process = psutil.Process(pid)
        ours = _OUR_TITLE.match(" ".join(process.cmdline()))
        if ours is not None:
            return f" by the Outrider instance {ours[1]}: `outrider stop --name {shlex.quote(ours[1])}`"
        return f" by {process.name()} (pid {pid}); stop that"
    except (OSError, psutil.Error):
        return f" by pid {pid}; stop that"
