"""Opening one listening socket, and what is said when that does not work."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from outrider.errors import ConfigurationError
from outrider_supervisor import binding
from outrider_supervisor.binding import InUseError, Listener, bind, inherit
from outrider_testing.services import make_service

SERVICE = make_service()


@pytest.fixture(autouse=True)
def plain_title(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is none of Outrider's, whatever title an earlier test has given it."""
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _self: ["python", "-m", "pytest"])


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A TCP listener of somebody else."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def _is_listening(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _backlog(sock: socket.socket) -> int:
    """TCP_INFO of a listener has its backlog in tcpi_sacked."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[28:32], "little")


# -- TCP


@pytest.mark.parametrize("host, family", [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_tcp_listener_is_opened_as_gunicorn_would(host: str, family: int) -> None:
    listener = bind((host, 0), SERVICE)
    sock = listener.sock
    assert sock.family == family
    assert _is_listening(sock)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    assert not sock.get_inheritable()
    assert not sock.getblocking()
    listener.close(unlink=True)


def test_changed_backlog_is_told_to_the_kernel() -> None:
    listener = bind(("127.0.0.1", 0), SERVICE)
    assert _backlog(listener.sock) == SERVICE.backlog
    listener.listen(33)
    assert _backlog(listener.sock) == 33
    listener.close(unlink=True)


def test_address_in_use_names_the_process(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    with pytest.raises(InUseError) as refusal:
        bind(("127.0.0.1", port), SERVICE)
    name = psutil.Process().name()
    assert str(refusal.value) == (
        f"bind: 127.0.0.1:{port} is in use by {name} (pid {os.getpid()}); stop that, or choose another port"
    )


@pytest.mark.parametrize("role", ["supervisor [my shop] serving", "worker [my shop] g1 ready", "master [my shop] g1"])
def test_address_in_use_by_an_instance_of_outrider_names_the_command_that_stops_it(
    role: str, taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _self: [f"outrider: {role}"])
    port = taken.getsockname()[1]
    with pytest.raises(InUseError) as refusal:
        bind(("127.0.0.1", port), SERVICE)
    assert str(refusal.value) == (
        f"bind: 127.0.0.1:{port} is in use by the Outrider instance my shop: "
        "`outrider stop --name 'my shop'`, or choose another port"
    )


def test_address_in_use_by_a_process_that_may_not_be_known(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_kind: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    with pytest.raises(InUseError, match="is in use; stop that"):
        bind(taken.getsockname(), SERVICE)


def test_process_that_is_gone_meanwhile_is_named_by_its_pid(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding, "_listener_on", lambda _port: 2**22 + 1)
    with pytest.raises(InUseError, match=f"in use by pid {2**22 + 1};"):
        bind(taken.getsockname(), SERVICE)


@pytest.mark.parametrize(
    "address, sentence",
    [
        (("192.0.2.1", 0), "bind: 192.0.2.1:0: this machine has no address 192.0.2.1"),
        (("host.invalid", 80), "bind: host.invalid:80: the host 'host.invalid' is not known"),
        (("127.0.0.1", 65536), "bind: 127.0.0.1:65536: the port must be 0 to 65535"),
        (("::1", -1), "bind: [::1]:-1: the port must be"),
    ],
)
def test_impossible_tcp_address_is_refused(address: tuple[str, int], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        bind(address, SERVICE)
    assert str(refusal.value).startswith(sentence)
    assert not isinstance(refusal.value, InUseError)


@pytest.mark.parametrize(
    "error, sentence",
    [
        (PermissionError(13, "Permission denied"), "a port below 1024 needs root or CAP_NET_BIND_SERVICE"),
        (OSError(97, "Address family not supported by protocol"), "bind: 127.0.0.1:80: Address family not supported"),
    ],
)
def test_refusal_of_the_kernel_is_explained(error: OSError, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(socket.socket):
        def bind(self, _address: object) -> None:
            raise error

    monkeypatch.setattr(socket, "socket", Refused)
    with pytest.raises(ConfigurationError, match=sentence):
        bind(("127.0.0.1", 80), SERVICE)


# -- unix sockets


def test_path_has_the_mode_and_owner_of_the_service(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    before = os.umask(0o022)
    try:
        listener = bind(str(path), make_service(umask=0o117))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
    assert _is_listening(listener.sock)
    listener.close(unlink=True)
    assert not path.exists()


def test_path_that_cannot_be_given_to_its_owner_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    path = tmp_path / "web.sock"
    with pytest.raises(ConfigurationError, match=r"user=\d+, group=\d+ \(Operation not permitted\); start as root"):
        bind(str(path), SERVICE)
    assert not path.exists()


def test_stale_path_is_bound_anew(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    bind(str(path), SERVICE).close(unlink=False)
    assert path.exists()
    bind(str(path), SERVICE).close(unlink=True)


def test_living_path_is_in_use_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    theirs = bind(str(path), SERVICE)
    with pytest.raises(InUseError, match=rf"in use by .* \(pid {os.getpid()}\); stop that, or choose another path"):
        bind(str(path), SERVICE)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    theirs.close(unlink=True)


def test_file_at_the_path_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="exists and is no socket; remove it"):
        bind(str(path), SERVICE)
    assert path.read_text() == "precious"


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"there is no directory {tmp_path}/no; create it first"):
        bind(f"{tmp_path}/no/web.sock", SERVICE)


def test_path_longer_than_the_kernel_takes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has 108 bytes; a unix socket's path may have 107"):
        bind("/" + "d" * 107, SERVICE)


@pytest.mark.parametrize(
    "error, sentence, in_use",
    [
        (PermissionError(13, "Permission denied"), "permission denied; uid .* needs write access to", False),
        (OSError(98, "Address already in use"), "is in use; stop who has it", True),
        (OSError(30, "Read-only file system"), "Read-only file system", False),
    ],
)
def test_refusal_of_the_path_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, sentence: str, in_use: bool
) -> None:
    def refuse(_path: str) -> None:
        raise error

    monkeypatch.setattr(binding, "remove_stale", refuse)
    with pytest.raises(ConfigurationError, match=sentence) as refusal:
        bind(f"{tmp_path}/web.sock", SERVICE)
    assert isinstance(refusal.value, InUseError) == in_use


def test_abstract_name_is_bound_once() -> None:
    name = f"\0outrider-binding-{os.getpid()}"
    listener = bind(name, SERVICE)
    assert _is_listening(listener.sock)
    with pytest.raises(InUseError, match=f"bind: unix:@{name[1:]} is in use"):
        bind(name, SERVICE)
    listener.close(unlink=True)


def test_refusal_of_an_abstract_name_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(socket.socket):
        def bind(self, _address: object) -> None:
            raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", Refused)
    with pytest.raises(ConfigurationError, match="bind: unix:@web: Operation not permitted"):
        bind("\0web", SERVICE)


# -- inherited sockets


def test_listening_socket_is_taken_over_as_it_is(taken: socket.socket) -> None:
    taken.listen(7)
    descriptor = os.dup(taken.fileno())
    os.set_inheritable(descriptor, True)
    listener = inherit(descriptor, "fd")
    listener.listen(99)
    assert listener.sock.fileno() == descriptor
    assert not listener.sock.get_inheritable()
    assert _backlog(listener.sock) == 7
    listener.close(unlink=True)


def test_bound_socket_listens_when_it_is_told_to() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    listener = inherit(sock.detach(), "fd")
    listener.listen(9)
    assert _backlog(listener.sock) == 9
    listener.close(unlink=True)


def test_descriptor_that_is_no_listener_is_refused(tmp_path: Path) -> None:
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    unbound = socket.socket()
    pair = socket.socketpair()
    with (tmp_path / "file").open("w") as file, datagram, unbound, pair[0], pair[1]:
        for each, problem in (
            (file, "it is no socket"),
            (datagram, "it is no stream socket"),
            (unbound, "it is not bound"),
            (pair[0], "it is not bound"),
        ):
            with pytest.raises(ConfigurationError, match=f"^bind: fd: {problem}; allowed is a stream socket"):
                inherit(each.fileno(), "bind: fd")
            os.fstat(each.fileno())  # is still open
    with pytest.raises(ConfigurationError, match="bad file descriptor"):
        inherit(1 << 20, "bind: fd")


def test_listener_survives_as_plain_data(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    before = bind(str(path), SERVICE)
    state = before.to_state()
    state["descriptor"] = os.dup(before.sock.fileno())
    after = Listener.from_state(state, "listener")
    before.close(unlink=False)
    assert (after.path, after.identity, after.backlog) == (before.path, before.identity, before.backlog)
    after.close(unlink=True)
    assert not path.exists()
