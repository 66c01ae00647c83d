"""HTTP/2 through the whole server: gunicorn, uvloop, real sockets, with TLS and without."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from outrider_testing.gunicorn_process import PROBE, GunicornProcess
from outrider_testing.serving import Serve, serving

H2C = ("--http-protocols", "h2,h1", "--http2-cleartext", "prior-knowledge")


class Client(httpx.Client):
    """Speaks HTTP/2, and HTTP/1.1 only where it may."""

    def __init__(self, server: GunicornProcess, *, http1: bool = False) -> None:
        assert isinstance(server.address, tuple)
        scheme = "https" if server.tls else "http"
        port = server.address[1]
        # It would set its ALPN in a context that it is given.
        url = f"{scheme}://localhost:{port}"
        super().__init__(base_url=url, http1=http1, http2=True, verify=False, timeout=15.0)


def start_with_tls(serve: Serve, directory: Path) -> GunicornProcess:
    authority = trustme.CA()
    pem = directory / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    server = serve(PROBE, "--certfile", str(pem), "--http-protocols", "h2,h1", "--access-logfile", "-", workers=0)
    server.tls = ssl.create_default_context()
    authority.configure_trust(server.tls)
    return server.wait_until_ready()


@pytest.fixture(scope="module", params=["cleartext", "tls"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GunicornProcess]:
    directory = tmp_path_factory.mktemp("http2")
    with serving(directory) as serve:
        if request.param == "tls":
            yield start_with_tls(serve, directory)
        else:
            yield serve(PROBE, *H2C, "--access-logfile", "-")


@pytest.fixture
def client(server: GunicornProcess) -> Iterator[Client]:
    with Client(server) as client:
        yield client


def test_requests_share_a_connection(client: Client) -> None:
    for _ in range(3):
        response = client.get("/pid")
        assert response.status_code == 200
        assert response.http_version == "HTTP/2"


def test_http1_is_served_beside(server: GunicornProcess) -> None:
    assert server.get("/pid").status == 200


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 3_000_000])
def test_body_comes_back_as_it_went(client: Client, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert client.post("/echo", content=body).content == body


def test_response_is_streamed(client: Client) -> None:
    with client.stream("GET", "/stream", params={"count": "100", "size": "20000"}) as response:
        assert sum(len(piece) for piece in response.iter_raw()) == 2_000_000


def test_access_log_names_the_protocol(server: GunicornProcess, client: Client) -> None:
    client.get("/pid", params={"for": "log"})
    server.until_log(r'"GET /pid\?for=log HTTP/2[.0]*" 200 ')


def test_drain_finishes_the_streams_that_are_open(serve: Serve) -> None:
    server = serve(PROBE, *H2C)
    with Client(server) as client:
        assert client.get("/pid").status_code == 200
        (worker,) = server.workers()
        server.reload()
        assert worker not in server.workers()
        assert client.get("/pid").status_code == 200


def test_client_that_speaks_both_chooses_http2_over_tls(serve: Serve, tmp_path: Path) -> None:
    with Client(start_with_tls(serve, tmp_path), http1=True) as client:
        assert client.get("/pid").http_version == "HTTP/2"
