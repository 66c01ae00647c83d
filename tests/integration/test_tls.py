"""TLS of a real server: client certificates, server names, and certificates that change under load."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import ssl
from pathlib import Path

import pytest

from outrider_testing.certificates import Authority, Pair, trusting_context
from outrider_testing.gunicorn_process import GunicornProcess
from outrider_testing.http_client import HTTPConnection, encode_request
from outrider_testing.serving import Serve, public_directory, serving

NOBODY = pwd.getpwnam("nobody")
APP = """
import asyncio, json, os

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    bases = {base.__module__.partition(".")[0] for base in type(asyncio.get_running_loop()).__mro__}
    loop = "uvloop" if "uvloop" in bases else "asyncio"
    body = json.dumps({"pid": os.getpid(), "tls": scope["extensions"].get("tls"), "loop": loop}).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def pairs(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    directory = tmp_path_factory.mktemp("pem")
    names = {"first": "localhost", "second": "localhost", "further": "further.example", "client": "a@example.org"}
    pairs = {name: authority.write_pair(directory, name, host, common_name=name) for name, host in names.items()}
    authority.write_authority(directory / "authority.pem")
    return pairs


def link(directory: Path, pair: Pair) -> None:
    for target, name in zip(pair, ("live.crt", "live.key"), strict=True):
        (directory / "new").symlink_to(target)
        (directory / "new").replace(directory / name)


def shown_by(server: GunicornProcess, server_name: str | None = None) -> str:
    """The PEM of the certificate that a new connection is shown."""
    with (
        socket.create_connection(server.tcp_address) as sock,
        trusting_context().wrap_socket(sock, server_hostname=server_name) as tls,
    ):
        der = tls.getpeercert(True)
        assert der is not None
        return ssl.DER_cert_to_PEM_cert(der)


def pem(pair: Pair) -> str:
    return Path(pair[0]).read_text(encoding="ascii")


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_application_is_told_who_the_client_is(
    serve: Serve, authority: Authority, pairs: dict[str, Pair], loop: str
) -> None:
    ca_certs = str(Path(pairs["client"][0]).parent / "authority.pem")
    server = serve(
        "tlsapp:app",
        *("--certfile", pairs["first"][0], "--keyfile", pairs["first"][1]),
        *("--ca-certs", ca_certs, "--cert-reqs", str(int(ssl.CERT_REQUIRED)), "--asgi-loop", loop),
        workers=0,
        files={"tlsapp.py": APP},
    )
    server.tls = authority.client_context(pairs["client"])
    server.wait_until_ready()
    answer = server.get("/").json()
    tls = answer["tls"]
    assert answer["loop"] == loop
    assert tls["server_cert"] == pem(pairs["first"])
    assert tls["client_cert_chain"][0] == pem(pairs["client"])
    assert tls["client_cert_name"].startswith("CN=client,OU=")
    assert tls["client_cert_error"] is None
    assert tls["tls_version"] == 0x0304
    assert 0x1301 <= tls["cipher_suite"] <= 0x1303
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        HTTPConnection(server.address, tls=authority.client_context()) as stranger,
    ):
        stranger.request("GET", "/")
    server.until_log("TLS handshake with 127.0.0.1:[0-9]+ failed: the client sent no certificate, and cert_reqs wants")


def test_certificate_is_chosen_by_server_name(serve: Serve, authority: Authority, pairs: dict[str, Pair]) -> None:
    options = ("--certfile", pairs["first"][0], "--keyfile", pairs["first"][1])
    further = ",".join(pairs["further"])
    server = serve(
        "tlsapp:app",
        *options,
        workers=0,
        files={"tlsapp.py": APP},
        config=f"sni_certificates = [{further!r}]\n",
    )
    server.tls = authority.client_context()
    server.wait_until_ready()
    assert shown_by(server) == pem(pairs["first"])
    assert shown_by(server, "further.example") == pem(pairs["further"])
    server.tls = trusting_context()
    assert server.get("/").json()["tls"]["server_cert"] == pem(pairs["first"])


@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_changed_certificate_is_used_without_losing_a_connection(
    serve: Serve, authority: Authority, pairs: dict[str, Pair], tmp_path: Path, preload: tuple[str, ...]
) -> None:
    live = tmp_path / "live"
    live.mkdir()
    link(live, pairs["first"])
    options = ("--certfile", str(live / "live.crt"), "--keyfile", str(live / "live.key"), *preload)
    server = serve("tlsapp:app", *options, "--keep-alive", "60", workers=0, files={"tlsapp.py": APP})
    server.tls = authority.client_context()
    server.wait_until_ready()
    with server.connect() as kept:
        before = kept.request("GET", "/").json()
        link(live, pairs["second"])
        server.until(lambda: [kept.request("GET", "/"), shown_by(server) == pem(pairs["second"])][1], 15.0)
        after = kept.request("GET", "/").json()
    assert after == before, "the connection has the certificate that it began with"
    answer = server.get("/").json()
    assert answer["pid"] == before["pid"]
    assert answer["tls"]["server_cert"] == pem(pairs["second"])
    server.until_log(r"A changed certificate is now in use: certfile '.*live.crt', CN=second,")
    link(live, (pairs["first"][0], pairs["second"][1]))
    server.until_log("A changed certificate can't be used: keyfile '.*' is not the key of the certificate", 15.0)
    assert server.get("/").json() == answer


def test_worker_that_is_started_halfway_through_a_renewal_serves(
    serve: Serve, authority: Authority, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    link(tmp_path, pairs["first"])
    options = ("--certfile", str(tmp_path / "live.crt"), "--keyfile", str(tmp_path / "live.key"))
    server = serve("tlsapp:app", *options, workers=0, files={"tlsapp.py": APP})
    server.tls = authority.client_context()
    server.wait_until_ready()
    (before,) = server.workers()
    link(tmp_path, (pairs["second"][0], pairs["first"][1]))
    server.signal(signal.SIGTERM, before)
    server.until(lambda: server.workers() not in ([], [before]), what="another worker")
    assert server.get("/").json()["tls"]["server_cert"] == pem(pairs["first"])
    server.until_log("is not the key of .* This worker begins with what could be read when its master started")
    link(tmp_path, pairs["second"])
    server.until(lambda: shown_by(server) == pem(pairs["second"]), 15.0)


def test_key_that_the_worker_may_not_read_any_more_is_told(authority: Authority, pairs: dict[str, Pair]) -> None:
    """Only root can give privileges up, and anybody else can lose the right to read all the same."""
    is_root = os.getuid() == 0
    with public_directory() as directory, serving(directory) as serve:
        for source, name in zip(pairs["first"], ("live.crt", "live.key"), strict=True):
            shutil.copyfile(source, directory / name)
        (directory / "live.key").chmod(0o600)
        options = ("--certfile", str(directory / "live.crt"), "--keyfile", str(directory / "live.key"), "--preload")
        user = ("--user", str(NOBODY.pw_uid), "--group", str(NOBODY.pw_gid)) if is_root else ()
        server = serve("tlsapp:app", *options, *user, workers=0, files={"tlsapp.py": APP}, config="import hashlib\n")
        server.tls = authority.client_context()
        server.wait_until_ready()
        (directory / "live.key").chmod(0o400 if is_root else 0)
        message = server.until_log("A changed certificate can't be used: keyfile .*", 15.0).group()
        uid = NOBODY.pw_uid if is_root else os.getuid()
        assert f"Permission denied: '{directory}/live.key'" in message
        assert f"This worker is uid {uid} and has given up what it was at its start" in message
        assert server.get("/").json()["tls"]["server_cert"] == pem(pairs["first"])


@pytest.mark.parametrize("fast_tls", ["on", "off"])
def test_connection_is_closed_with_a_closure_alert(
    serve: Serve, authority: Authority, pairs: dict[str, Pair], fast_tls: str
) -> None:
    options = ("--certfile", pairs["first"][0], "--keyfile", pairs["first"][1])
    server = serve("tlsapp:app", *options, workers=0, files={"tlsapp.py": APP}, env={"OUTRIDER_FAST_TLS": fast_tls})
    server.tls = authority.client_context()
    server.wait_until_ready()
    with socket.create_connection(server.tcp_address, timeout=10.0) as sock:
        context = authority.client_context()
        with context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as tls:
            tls.sendall(encode_request("GET", "/", fields=[("Connection", "close")]))
            while tls.recv(65536):
                pass
            # b"" was the alert: without it, recv() would have raised SSLEOFError.


@pytest.mark.parametrize("fast_tls", ["on", "off"])
def test_client_may_send_its_closure_alert_first(
    serve: Serve, authority: Authority, pairs: dict[str, Pair], fast_tls: str
) -> None:
    options = ("--certfile", pairs["first"][0], "--keyfile", pairs["first"][1])
    server = serve("tlsapp:app", *options, workers=0, files={"tlsapp.py": APP}, env={"OUTRIDER_FAST_TLS": fast_tls})
    server.tls = authority.client_context()
    server.wait_until_ready()
    with (
        socket.create_connection(server.tcp_address, timeout=10.0) as sock,
        authority.client_context().wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        tls.sendall(encode_request("GET", "/"))
        tls.recv(65536)
        with tls.unwrap() as raw:  # waits for the answer to the alert
            assert raw.recv(1) == b""
    assert "Traceback" not in server.log_text()
