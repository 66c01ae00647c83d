"""ASGI's extensions through the whole server: uvloop, real sockets, plain and with TLS."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from outrider_testing.fakes import Answer, parse_answers
from outrider_testing.gunicorn_process import GunicornProcess
from outrider_testing.http_client import encode_request
from outrider_testing.serving import Serve, serving

APP = "outrider_testing.apps.extensions:app"
PATIENT = ("--keep-alive", "60")  # a client may be busy with a large file for longer than the two seconds by default
FILE_SIZE = 6 << 20
EXTENSIONS = [
    "http.response.early_hint",
    "http.response.pathsend",
    "http.response.trailers",
    "http.response.zerocopysend",
]


def start_with_tls(serve: Serve, directory: Path) -> GunicornProcess:
    authority = trustme.CA()
    pem = directory / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    server = serve(APP, *PATIENT, "--certfile", str(pem), "--keyfile", str(pem), workers=0)
    server.tls = ssl.create_default_context()
    authority.configure_trust(server.tls)
    return server.wait_until_ready()


@pytest.fixture(scope="module", params=["tcp", "unix", "tls"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GunicornProcess]:
    directory = tmp_path_factory.mktemp("extensions")
    with serving(directory) as serve:
        if request.param == "tls":
            server = start_with_tls(serve, directory)
        elif request.param == "unix":
            server = serve(APP, *PATIENT, "--bind", f"unix:{directory / 'socket'}")
        else:
            server = serve(APP, *PATIENT)
        (server.directory / "file").write_bytes(os.urandom(FILE_SIZE))
        yield server


@pytest.fixture
def content(server: GunicornProcess) -> bytes:
    return (server.directory / "file").read_bytes()


def answers_to(server: GunicornProcess, target: str, *fields: tuple[str, str]) -> list[Answer]:
    """Every response, interim ones too, with the trailers."""
    with server.connect() as connection:
        connection.send(encode_request("GET", target, [*fields, ("Connection", "close")]))
        return parse_answers(connection.read_to_end(), closed=True)


@pytest.mark.parametrize("target", ["/path", "/path?chunked=1", "/starlette"])
def test_file_arrives_whole_again_and_again(server: GunicornProcess, content: bytes, target: str) -> None:
    with server.connect() as connection:
        for _ in range(3):
            assert connection.request("GET", target).body == content
        assert connection.request("GET", "/").text == "hello"


def test_part_of_a_file_arrives_between_bodies(server: GunicornProcess, content: bytes) -> None:
    with server.connect() as connection:
        for query, part in (
            ("", content),
            ("?offset=5&count=10", content[5:15]),
            ("?count=5000000", content[:5000000]),
        ):
            assert connection.request("GET", "/part" + query).body == b"<" + part + b">"


def test_head_of_a_file_has_no_body(server: GunicornProcess) -> None:
    with server.connect() as connection:
        assert connection.request("HEAD", "/path").field("content-length") == str(FILE_SIZE)
        assert connection.request("GET", "/").text == "hello"


def test_clients_that_leave_during_a_file_leave_nothing_behind(server: GunicornProcess) -> None:
    (worker,) = server.workers()

    def descriptors() -> int:
        return len(list(Path(f"/proc/{worker}/fd").iterdir()))

    server.get("/path")
    before = descriptors()
    for _ in range(20):
        with server.connect() as connection:
            connection.send(encode_request("GET", "/path"))
            connection.read_head()
    server.until(lambda: descriptors() <= before, what="as many descriptors as before")
    assert server.get("/").text == "hello"
    assert "Exception" not in server.log_text()


def test_client_gets_hints_and_trailers(server: GunicornProcess) -> None:
    hint, answer = answers_to(server, "/trailers", ("TE", "trailers"))
    assert (hint.status, hint["link"]) == (103, "</a.css>; rel=preload")
    assert (answer.body, answer.trailers) == (b"hello", (("x-sum", "5"),))


def test_extensions_of_the_scope_are_those_that_work(server: GunicornProcess) -> None:
    assert server.get("/extensions").json() == [*EXTENSIONS, *(["tls"] if server.tls else [])]


def test_debug_extension_is_there_under_reload(serve: Serve) -> None:
    server = serve(APP, "--reload", "--log-level", "debug")
    assert "http.response.debug" in server.get("/extensions").json()
    assert server.get("/debug").text == "hello"
    server.until_log(r"Debug information of GET /debug: \{'template': 'index.html'\}")
