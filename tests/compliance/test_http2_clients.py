"""HTTP/2 as others speak it: curl, nghttp and h2load (nghttp2), httpx (h2)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from outrider_testing.certificates import Authority
from outrider_testing.gunicorn_process import GunicornProcess

UPLOAD = bytes(range(256)) * 4096  # 1 MiB


def run(program: str, *options: str, stdin: bytes = b"") -> str:
    """Run a program to its good end; return what it printed."""
    path = shutil.which(program)
    if path is None:
        package = "curl" if program == "curl" else "nghttp2-client"
        pytest.fail(f"{program} is not installed: apt-get install {package}")
    done = subprocess.run([path, *options], input=stdin, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return done.stdout.decode("latin-1")


def url_of(server: GunicornProcess, path: str) -> str:
    host, port = server.tcp_address
    return f"https://localhost:{port}{path}" if server.tls else f"http://{host}:{port}{path}"


# curl


def curl(server: GunicornProcess, authority_file: str, path: str, *options: str, stdin: bytes = b"") -> str:
    protocol = ["--http2", "--cacert", authority_file] if server.tls else ["--http2-prior-knowledge"]
    return run("curl", "-sS", "--ipv4", *protocol, *options, url_of(server, path), stdin=stdin)


@pytest.mark.external
def test_curl_gets(http2_server: GunicornProcess, authority_file: str) -> None:
    assert curl(http2_server, authority_file, "/", "-w", " %{http_version} %{http_code}") == "hello 2 200"


@pytest.mark.external
def test_curl_uploads(http2_server: GunicornProcess, authority_file: str) -> None:
    echoed = curl(http2_server, authority_file, "/echo", "--data-binary", "@-", stdin=UPLOAD)
    assert echoed.encode("latin-1") == UPLOAD


@pytest.mark.external
def test_curl_downloads(http2_server: GunicornProcess, authority_file: str) -> None:
    assert len(curl(http2_server, authority_file, "/bulk?size=20000000")) == 20_000_000


@pytest.mark.external
def test_curl_asks_for_head(http2_server: GunicornProcess, authority_file: str) -> None:
    assert curl(http2_server, authority_file, "/", "--head").startswith("HTTP/2 200")


# nghttp2


@pytest.mark.external
def test_nghttp_gets_several(http2_server: GunicornProcess) -> None:
    url = url_of(http2_server, "/")
    output = run("nghttp", "--no-verify-peer", "--null-out", "--stat", "--multiply=20", url)
    assert len(re.findall(r" 200 +\d+ +/\n", output)) == 20, output


@pytest.mark.external
def test_nghttp_uploads_with_trailers(http2_server: GunicornProcess, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(UPLOAD)
    options = ["--no-verify-peer", f"--data={body}", "--trailer=x-checksum: 1", "--padding=100"]
    echoed = run("nghttp", *options, url_of(http2_server, "/echo"))
    assert echoed.encode("latin-1") == UPLOAD


@pytest.mark.external
@pytest.mark.parametrize("path", ["/", "/bulk?size=1000000"])
def test_h2load_gets_all_answers(http2_server: GunicornProcess, path: str) -> None:
    requests = 2000 if path == "/" else 100
    output = run("h2load", f"-n{requests}", "-c10", "-m20", url_of(http2_server, path))
    assert f"status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx" in output, output
    assert "0 failed, 0 errored, 0 timeout" in output, output


# httpx


@pytest.fixture
def client(authority: Authority) -> httpx.Client:
    """A client that speaks HTTP/2 and nothing else."""
    return httpx.Client(http1=False, http2=True, verify=authority.client_context())


def test_httpx_gets(http2_server: GunicornProcess, client: httpx.Client) -> None:
    with client:
        for _ in range(3):
            answer = client.get(url_of(http2_server, "/"))
            assert (answer.http_version, answer.status_code, answer.text) == ("HTTP/2", 200, "hello")


def test_httpx_uploads(http2_server: GunicornProcess, client: httpx.Client) -> None:
    pieces = (UPLOAD[start : start + 10_000] for start in range(0, len(UPLOAD), 10_000))
    with client:
        assert client.post(url_of(http2_server, "/echo"), content=pieces).content == UPLOAD


def test_httpx_downloads(http2_server: GunicornProcess, client: httpx.Client) -> None:
    with client, client.stream("GET", url_of(http2_server, "/bulk?size=5000000")) as answer:
        assert sum(map(len, answer.iter_bytes())) == 5_000_000
